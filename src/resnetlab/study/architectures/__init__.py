"""Networks other than ResNets in a study: the grid of their runs, and the effects of the addition."""
