"""Write and read the model file: one `.safetensors` that needs nothing else to be used."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from resnetlab.config import ConfigError, ModelConfig, Preprocessing
from resnetlab.configjson import from_json, to_json
from resnetlab.files import write_whole
from resnetlab.models.resnet import ResNet

FORMAT = 1


class ModelFileError(ConfigError):
    """A file that is not a model file of this project, or a damaged one; the message names it and says why."""


@dataclass(frozen=True)
class ModelCard:
    """Everything beside the weights: what the metadata of a model file holds."""

    model: ModelConfig
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    provenance: dict[str, Any] = field(default_factory=dict)
    """Recipe, data fingerprint, split, seed, versions."""
    error: dict[str, Any] = field(default_factory=dict)
    """Errors measured at the end of training, in %, each under the name of its split."""


def save_model(path: Path | str, model: ResNet, card: ModelCard) -> None:
    """Write weights and card as one file, whole or not at all.

    Raises:
        OSError: where the folder cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"format": "pt", "resnetlab": json.dumps({"format": FORMAT, **to_json(card)})}
    write_whole(Path(path), save(tensors, metadata))


def load_model(path: Path | str) -> tuple[ResNet, ModelCard]:
    """Read a model file; the network comes back on the CPU, in evaluation mode.

    Raises:
        ModelFileError: for a file that is missing, damaged, or not a model file of this project.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path}: cannot be read as safetensors ({error})") from error
    if "resnetlab" not in metadata:
        raise ModelFileError(f"{path}: a safetensors file, but not one that resnetlab wrote (no metadata of ours)")
    content = json.loads(metadata["resnetlab"])
    if content.pop("format") != FORMAT:
        raise ModelFileError(f"{path}: written by a newer resnetlab; this one reads format {FORMAT}")
    try:
        card = from_json(ModelCard, content)
        with torch.device("meta"):
            model = ResNet(card.model)
        model.load_state_dict(tensors, assign=True)
    except (RuntimeError, ValueError) as error:
        raise ModelFileError(f"{path}: the weights do not fit the network it describes ({error})") from error
    return model.eval(), card
