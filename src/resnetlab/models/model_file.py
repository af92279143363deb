"""Write and read model files: weights and model card in one self-contained `.safetensors` file."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from resnetlab.models.model_card import (
    FORMAT_VERSION,
    ModelCard,
    ModelFileError,
    check_checksums,
    find_model_file,
    parse_card,
    unreadable_file,
)
from resnetlab.models.model_checksums import CARD, add_checksums
from resnetlab.models.resnet import ResNet
from resnetlab.serialization import to_json
from resnetlab.system.atomic_files import write_atomic

__all__ = ["load_model", "save_model", "ModelCard", "ModelFileError"]


def save_model(path: Path | str, model: ResNet, card: ModelCard) -> None:
    """Write weights and model card to one file, atomically, with a checksum of each.

    Raises:
        OSError: if the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"format": "pt", CARD: json.dumps({"format": FORMAT_VERSION, **to_json(card)})}
    write_atomic(Path(path), add_checksums(save(tensors, metadata)))


def load_model(path: Path | str) -> tuple[ResNet, ModelCard]:
    """Load a network and its card from a model file or run directory; the network is on the CPU, in evaluation mode.

    Raises:
        ModelFileError: for a file that is missing, damaged, changed since it was written, or no resnetlab model file.
    """
    path = find_model_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise unreadable_file(path, error) from error
    check_checksums(path, metadata)
    card = parse_card(metadata, path)
    if sum(card.model.stage_blocks) > len(tensors):  # before they are built
        raise ModelFileError(
            f"{path}: the weights do not fit the network of its model card ({sum(card.model.stage_blocks):,} blocks, "
            f"{len(tensors):,} tensors)"
        )
    try:
        with torch.device("meta"):
            model = ResNet(card.model)
        model.load_state_dict(tensors, assign=True)
    except (RuntimeError, ValueError) as error:
        raise ModelFileError(f"{path}: the weights do not fit the network of its model card ({error})") from error
    return model.eval(), card
