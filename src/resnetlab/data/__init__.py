"""Data sets, splits, augmentation and batches; `images` decodes, `readers` list files, `shards` pack and stream."""
