"""The states of a run that a plane may go through."""

from resnetlab.config import ConfigError


def check_states(num_states: int, num_models: int, dimensions: int) -> None:
    """Check that states of a run go with a plane of one network.

    Raises:
        ConfigError: if they do not.
    """
    if num_states and (num_models > 1 or dimensions == 1):
        raise ConfigError("states are for a plane of one network; leave out the other networks, and take 2 dimensions")
