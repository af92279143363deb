"""Readers of data sets: folder trees (also ILSVRC-2012), parquet files, CIFAR and MNIST archives."""
