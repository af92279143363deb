"""The sides of an experiment: a name for each way the blocks are wired, and the network it means. No torch here."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from resnetlab.config import ConfigError, ModelConfig
from resnetlab.models.zoo import IMAGENET, model_config

ARMS: dict[str, dict[str, Any]] = {
    "plain": {"shortcut": "none"},
    "residual": {"shortcut": "pad"},
    "A": {"shortcut": "pad"},
    "B": {"shortcut": "project"},
    "C": {"shortcut": "project_all"},
    "bottleneck": {"shortcut": "pad", "block": "bottleneck"},
}
"""Arm to what makes it. `residual` is the paper's option A, so that it has not one parameter more than `plain` (section
4.2); A, B and C are the options of Table 3; `bottleneck` (9n+2 layers) has the blocks of Figure 5."""


def arm_network(arm: str, depth: int, **changes: Any) -> ModelConfig:
    """Return the CIFAR network that stands on one side of the experiment, with fields of `ModelConfig` changed.

    Raises:
        ConfigError: for an unknown arm, or a depth that does not fit it; the message names the nearest that do.
    """
    if arm not in ARMS:
        raise ConfigError(f"arm {arm!r} is unknown; known: {', '.join(ARMS)}")
    family = "plain" if arm == "plain" else "resnet"
    suffix = "-cifar" if depth in IMAGENET else ""
    try:
        config = model_config(f"{family}{depth}{suffix}", **ARMS[arm], **changes)
    except ConfigError as error:
        raise ConfigError(f"arm bottleneck: {error}" if arm == "bottleneck" else str(error)) from error
    return config if arm in ("plain", "residual") else replace(config, name=f"{config.name}-{arm}")


def arm_of(model: ModelConfig) -> str:
    """Return the arm a network stands on; its configuration says it, and of `residual` and A its name."""
    if model.shortcut == "none":
        return "plain"
    if model.block == "bottleneck":
        return "bottleneck"
    if model.shortcut == "pad":
        return "A" if model.name.endswith("-A") else "residual"
    return "B" if model.shortcut == "project" else "C"


def ordered_arms(arms: Iterable[str]) -> list[str]:
    """Return each arm once, in the order in which they are shown: that of `ARMS`."""
    return sorted(set(arms), key=list(ARMS).index)
