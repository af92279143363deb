"""The way to compute a step: precision, layout, threads, compilation or CUDA graphs, selected by measurement."""
