"""Statistics over seeds, paired comparisons of networks, and corrections for many of them."""
