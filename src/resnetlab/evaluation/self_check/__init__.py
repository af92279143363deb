"""Self-check of weights: each batch normalisation's running statistics against what it sees of given images."""
