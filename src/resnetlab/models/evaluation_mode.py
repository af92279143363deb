"""Evaluation mode for a while, and the mode of every submodule as it was afterwards.

`network.train(was_training)` would give all submodules one mode: frozen batch normalisation would learn again.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def restored_modes(*networks: nn.Module) -> Iterator[None]:
    """Restore the mode of every submodule on exit, also after an exception."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    own_modes = [network.training for network in networks]
    try:
        yield
    finally:
        for network, mode in zip(networks, own_modes, strict=True):
            network.train(mode)  # for modules that do more in `train`, such as adapters that undo the merge of weights
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluation_mode(*networks: nn.Module) -> Iterator[None]:
    """Put networks into evaluation mode, and restore the mode of every submodule on exit."""
    with restored_modes(*networks):
        for network in networks:
            network.eval()
        yield
