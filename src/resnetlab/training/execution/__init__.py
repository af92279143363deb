"""The way to compute a step: precision, layout, threads, compilation, CUDA graphs, and their selection by measurement."""
