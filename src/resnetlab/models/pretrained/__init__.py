"""Published weights by name: the catalogue, their download into the cache, and their conversion to model files."""
