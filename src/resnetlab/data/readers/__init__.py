"""Readers of data sets: folder trees (also ILSVRC-2012), tables of labels, parquet files, CIFAR and MNIST archives."""
