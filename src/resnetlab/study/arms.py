"""Arms of an experiment: names for the ways to wire residual blocks, and the network configuration of each."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from resnetlab.config import BLOCK_PROPERTIES, ConfigError, ModelConfig, Norm, Recipe, RunConfig
from resnetlab.extension import did_you_mean, load_extensions
from resnetlab.models.zoo import IMAGENET, model_config

ARMS: dict[str, dict[str, Any]] = {
    "plain": {"shortcut": "none"},
    "residual": {"shortcut": "pad"},
    "A": {"shortcut": "pad"},
    "B": {"shortcut": "project"},
    "C": {"shortcut": "project_all"},
    "bottleneck": {"shortcut": "pad", "block": "bottleneck"},
    "preact": {"shortcut": "pad", "block": "preact"},
    "no-last-relu": {"shortcut": "pad", "block": "no-last-relu"},
    "bn-after-addition": {"shortcut": "pad", "block": "bn-after-addition"},
}
"""Arm to the `ModelConfig` fields that define it.

`residual` is the paper's option A, so it has exactly as many parameters as `plain` (section 4.2). A, B and C are the
shortcut options of Table 3. `bottleneck` (9n+2 layers) uses the blocks of Figure 5. The others are `residual` with
another block (`models/variants`), and have its name. So has the arm of every block of the user's own.
"""

Family = Literal["cifar", "imagenet"]
"""Networks of section 4.2 (6n+2 layers), or of Table 1 (18, 34, 50, 101 and 152 layers)."""

CAPPED = "-capped"
"""Suffix of a control arm: the same networks, trained with a limit on the step of each layer (`Recipe.max_update`)."""

MAX_UPDATE = 0.05
"""The limit of a control arm. Selected on the training error of plain-20 on digits (docs/log.md)."""


def arm_recipe(arm: str, recipe: Recipe) -> Recipe:
    """Return the recipe of one arm: a control arm gets the limit `MAX_UPDATE`, the others keep the recipe."""
    return replace(recipe, max_update=MAX_UPDATE) if arm.endswith(CAPPED) else recipe


def arm_network(
    arm: str, depth: int, *, family: Family = "cifar", norm: Norm = "batch", init_scale: float = 1.0
) -> ModelConfig:
    """Return the network of one arm and depth.

    Args:
        arm: A key of `ARMS` or a registered block, also with the suffix `CAPPED`.
        depth: Layers with weights. CIFAR networks: 6n+2, or 9n+2 for `bottleneck`. ImageNet networks: those of Table 1.
        family: CIFAR or ImageNet networks.
        norm: Normalisation of every layer; `none` leaves it out. Some blocks have their own (`arm_norm`).
        init_scale: Factor on the initial weights of the convolutions, above 0.

    Raises:
        ConfigError: for an unknown arm, or a depth that does not fit it; the message gives the nearest valid depths.
    """
    name, arm = arm, arm.removesuffix(CAPPED)
    if arm not in known_arms():
        load_extensions()
    if arm not in known_arms():
        known = f"{', '.join(known_arms())}, and each with {CAPPED} (a limit on the step of each layer)"
        raise ConfigError(f"arm {name!r} is unknown; known: {known}{did_you_mean(name, known_arms())}")
    fields = ARMS.get(arm) or {"shortcut": "pad", "block": arm}
    norm = arm_norm(arm, norm)
    has_suffix = family == "cifar" and depth in IMAGENET
    base = f"{'plain' if arm == 'plain' else 'resnet'}{depth}{'-cifar' if has_suffix else ''}"
    network = _imagenet_network if family == "imagenet" else _cifar_network
    config = network(base, arm, depth, {**fields, "norm": norm, "init_scale": init_scale})
    return config if arm in ("plain", "residual") else replace(config, name=f"{base}-{arm}")


def _cifar_network(base: str, arm: str, depth: int, fields: dict[str, Any]) -> ModelConfig:
    try:
        return model_config(base, **fields)
    except ConfigError as error:
        advice = f"; or use the family imagenet, which has {depth} layers" if depth in IMAGENET else ""
        raise ConfigError(f"{'arm bottleneck: ' if arm == 'bottleneck' else ''}{error}{advice}") from error


def _imagenet_network(base: str, arm: str, depth: int, fields: dict[str, Any]) -> ModelConfig:
    if depth not in IMAGENET:
        raise ConfigError(f"the family imagenet has networks of {', '.join(map(str, IMAGENET))} layers, not {depth}")
    if arm == "bottleneck":
        raise ConfigError("arm bottleneck: in the family imagenet the depth decides; from 50 layers on use residual")
    block = fields.pop("block", None)
    return model_config(base if block is None else f"{base}-{block}", **fields)


def family_of(model: ModelConfig) -> Family:
    """Return the family of a network, by its stem."""
    return "cifar" if model.stem == "cifar" else "imagenet"


def arm_norm(arm: str, norm: Norm) -> Norm:
    """Return the normalisation of an arm's networks: `norm`, unless its block allows another one only."""
    block = arm.removesuffix(CAPPED)
    return (BLOCK_PROPERTIES[block].required_norm if block in BLOCK_PROPERTIES else None) or norm


def arm_of(config: RunConfig) -> str:
    """Return the arm of a run, read from its network and recipe; only a network's name separates A from `residual`."""
    if config.architecture is not None:
        return config.architecture.arm
    return _network_arm(config.model) + (CAPPED if config.recipe.max_update is not None else "")


def _network_arm(model: ModelConfig) -> str:
    if model.shortcut == "none":
        return "plain"
    depths_block = IMAGENET[model.depth][0] if family_of(model) == "imagenet" and model.depth in IMAGENET else "basic"
    if model.block != depths_block:
        return model.block
    if model.shortcut == "pad":
        return "A" if model.name.endswith("-A") else "residual"
    return "B" if model.shortcut == "project" else "C"


def known_arms() -> list[str]:
    """Return every arm: those of `ARMS`, then the other blocks by name, such as the user's own."""
    return [*ARMS, *(block for block in BLOCK_PROPERTIES if block not in ARMS and block != "basic")]


def ordered_arms(arms: Iterable[str]) -> list[str]:
    """Return each arm once, in the order of tables and figures: that of `known_arms`, each before its control arm."""
    return sorted(set(arms), key=arm_position)


def arm_position(arm: str) -> tuple[int, bool]:
    """Return the position of an arm in tables and figures, as a sort key."""
    return known_arms().index(arm.removesuffix(CAPPED)), arm.endswith(CAPPED)
