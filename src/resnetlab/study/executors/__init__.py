"""Execution of a study's runs: processes of this machine, or tasks of a Ray cluster."""
