"""Arms of an experiment: names for the ways to wire residual blocks, and the network configuration of each."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from resnetlab.config import ConfigError, ModelConfig, Norm
from resnetlab.models.zoo import IMAGENET, model_config

ARMS: dict[str, dict[str, Any]] = {
    "plain": {"shortcut": "none"},
    "residual": {"shortcut": "pad"},
    "A": {"shortcut": "pad"},
    "B": {"shortcut": "project"},
    "C": {"shortcut": "project_all"},
    "bottleneck": {"shortcut": "pad", "block": "bottleneck"},
}
"""Arm to the `ModelConfig` fields that define it.

`residual` is the paper's option A, so it has exactly as many parameters as `plain` (section 4.2). A, B and C are the
shortcut options of Table 3. `bottleneck` (9n+2 layers) uses the blocks of Figure 5.
"""


def arm_network(arm: str, depth: int, *, norm: Norm = "batch", init_scale: float = 1.0) -> ModelConfig:
    """Return the CIFAR network of one arm and depth.

    Args:
        arm: A key of `ARMS`.
        depth: Layers with weights: 6n+2, or 9n+2 for `bottleneck`.
        norm: Normalisation of every layer; `none` leaves it out.
        init_scale: Factor on the initial weights of the convolutions, above 0.

    Raises:
        ConfigError: for an unknown arm, or a depth that does not fit it; the message gives the nearest valid depths.
    """
    if arm not in ARMS:
        raise ConfigError(f"arm {arm!r} is unknown; known: {', '.join(ARMS)}")
    family = "plain" if arm == "plain" else "resnet"
    suffix = "-cifar" if depth in IMAGENET else ""
    try:
        config = model_config(f"{family}{depth}{suffix}", **ARMS[arm], norm=norm, init_scale=init_scale)
    except ConfigError as error:
        raise ConfigError(f"arm bottleneck: {error}" if arm == "bottleneck" else str(error)) from error
    return config if arm in ("plain", "residual") else replace(config, name=f"{config.name}-{arm}")


def arm_of(model: ModelConfig) -> str:
    """Return the arm of a network, read from its configuration; only its name separates A from `residual`."""
    if model.shortcut == "none":
        return "plain"
    if model.block == "bottleneck":
        return "bottleneck"
    if model.shortcut == "pad":
        return "A" if model.name.endswith("-A") else "residual"
    return "B" if model.shortcut == "project" else "C"


def ordered_arms(arms: Iterable[str]) -> list[str]:
    """Return each arm once, in the order of `ARMS`, which is the order in tables and figures."""
    return sorted(set(arms), key=list(ARMS).index)
