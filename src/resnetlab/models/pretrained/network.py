"""A network with pretrained weights, for `build_model`: another number of classes gives a new head."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetlab.config import ConfigError, ModelConfig
from resnetlab.models.pretrained.catalogue import CATALOGUE
from resnetlab.models.zoo import model_config
from resnetlab.serialization import differences

if TYPE_CHECKING:
    from torch import Generator

    from resnetlab.models.resnet import ResNet

HEAD = "fc."
FREE_FIELDS = ("name", "num_classes", "init_scale", "zero_init_residual")
"""Fields in which the wanted network may differ from that of the file."""


def pretrained_network(
    model: str | ModelConfig, weights: Path | str, changes: dict[str, Any], *, generator: "Generator | None"
) -> "ResNet":
    """Return a network with the weights of a file, in training mode.

    With another number of classes than the file's, the head is new and random.

    Args:
        model: A name or a configuration.
        weights: A tag of the catalogue that completes the name, as `tv_in1k` does `resnet50`; or a whole name,
            `hf://owner/name`, or the path of a model file.
        changes: Fields of `ModelConfig` and their values, as for `build_model`.
        generator: Draws a new head; PyTorch's global generator if `None`.

    Raises:
        ConfigError: if there are no such weights, or they are those of another network.
    """
    import torch

    from resnetlab.models.model_file import load_model
    from resnetlab.models.resnet import ResNet

    source = _source(model, str(weights))
    pretrained, card = load_model(source)
    config = _wanted_config(model, card.model, changes)
    other = [line for line in differences(card.model, config) if line.partition(":")[0] not in FREE_FIELDS]
    if other:
        raise ConfigError(f"{source} holds {card.model.name}, which is another network ({'; '.join(other)})")
    with torch.random.fork_rng(devices=[], enabled=generator is not None):
        network = ResNet(config, generator)
    keep_head = config.num_classes == card.model.num_classes
    state = {key: value for key, value in pretrained.state_dict().items() if keep_head or not key.startswith(HEAD)}
    network.load_state_dict({**network.state_dict(), **state})
    return network


def _source(model: str | ModelConfig, weights: str) -> str:
    """Return the name or path of the weights: a tag is completed with the name of the network."""
    if "/" in weights or "." in weights:
        return weights
    network = model if isinstance(model, str) else model.name
    name = f"{network}.{weights}"
    if name not in CATALOGUE:
        tags = [entry.partition(".")[2] for entry in CATALOGUE if entry.partition(".")[0] == network]
        known = f"its weights are {', '.join(tags)}" if tags else "resnetlab weights lists the networks that have some"
        raise ConfigError(f"{network} has no published weights {weights!r}; {known}")
    return name


def _wanted_config(model: str | ModelConfig, stored: ModelConfig, changes: dict[str, Any]) -> ModelConfig:
    """Return the wanted configuration. Under a name, the shortcuts and the classes are the file's unless given."""
    if isinstance(model, ModelConfig):
        return dataclasses.replace(model, **changes)
    defaults: dict[str, Any] = {"num_classes": stored.num_classes, "in_channels": stored.in_channels}
    if "plain" not in model:
        defaults["shortcut"] = stored.shortcut
    return model_config(model, **{**defaults, **changes})
