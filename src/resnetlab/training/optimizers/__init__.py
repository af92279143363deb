"""Optimizers, the learning rate at each step, and what limits or averages the weights."""
