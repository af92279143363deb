"""Networks without some of their blocks, and the paths that carry the gradient."""
