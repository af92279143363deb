"""Architectures other than ResNet, one a file, each with the addition of He et al. (2015) as its one switch."""
