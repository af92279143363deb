"""Write and read the model file: one `.safetensors` that needs nothing else to be used."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from resnetlab.models.model_card import FORMAT, ModelCard, ModelFileError, find_model_file, parse_card, unreadable_file
from resnetlab.models.resnet import ResNet
from resnetlab.serialization import to_json
from resnetlab.system.atomic_files import write_atomic

__all__ = ["load_model", "save_model", "ModelCard", "ModelFileError"]


def save_model(path: Path | str, model: ResNet, card: ModelCard) -> None:
    """Write weights and card as one file, whole or not at all.

    Raises:
        OSError: where the folder cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"format": "pt", "resnetlab": json.dumps({"format": FORMAT, **to_json(card)})}
    write_atomic(Path(path), save(tensors, metadata))


def load_model(path: Path | str) -> tuple[ResNet, ModelCard]:
    """Read a model file, or that of a run directory; the network comes back on the CPU, in evaluation mode.

    Raises:
        ModelFileError: for a file that is missing, damaged, or not a model file of this project.
    """
    path = find_model_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise unreadable_file(path, error) from error
    card = parse_card(metadata, path)
    try:
        with torch.device("meta"):
            model = ResNet(card.model)
        model.load_state_dict(tensors, assign=True)
    except (RuntimeError, ValueError) as error:
        raise ModelFileError(f"{path}: the weights do not fit the network it describes ({error})") from error
    return model.eval(), card
