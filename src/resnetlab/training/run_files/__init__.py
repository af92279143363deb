"""The files of a run directory: record, checkpoints, provenance, and their comparison."""
