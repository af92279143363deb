"""Figures of a study: error curves, error against depth, gradient heat maps and layer responses."""
