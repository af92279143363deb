"""The loss around trained networks: directions, grids, curvature, figures and a page."""
