"""Shards of images: the file format, packing on a local disk, and reading from a URL through a cache."""
