"""Studies of depth: a grid of runs, the pools that execute it, and its results, verdicts, figures and report."""
