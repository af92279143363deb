"""Residual and plain networks: blocks, the ResNet, named networks, cost, deepening, BN fusion, and the model file."""
