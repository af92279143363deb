"""Blocks from the papers after the first one; each file is one change to the block."""
