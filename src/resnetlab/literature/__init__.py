"""Published numbers: the paper's tables (`paper`) and later reproductions (`reproductions`), with their protocols."""
