"""Small networks as model files, for the tests of inference, export and serving."""

from pathlib import Path
from typing import Any

import torch

from resnetlab.config import Preprocessing
from resnetlab.models.model_file import ModelCard, save_model
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import build_model

CLASSES = ("cat", "dog", "golf ball", "église", "x" * 40, "f")
COLOUR = Preprocessing(32, (0.48, 0.46, 0.41), (0.23, 0.22, 0.22), crop_ratio=0.875)
GREY = Preprocessing(28, (0.29,), (0.35,))
PIXEL_MEAN = Preprocessing(24, (0.5,) * 3, (0.2,) * 3, pixel_mean=tuple(index / 2000 for index in range(3 * 24 * 24)))


def network(preprocessing: Preprocessing = COLOUR, name: str = "resnet8", **changes: Any) -> ResNet:
    """Build a network with BN statistics and a head that are not initial, so that images get different classes."""
    generator = torch.Generator().manual_seed(0)
    channels = len(preprocessing.mean)
    model = build_model(name, len(CLASSES), generator=generator, in_channels=channels, **changes)
    for _ in range(3):
        model.train()(torch.randn(16, channels, 16, 16, generator=generator))
    torch.nn.init.normal_(model.fc.weight, 0, 1.5, generator=generator)
    return model.eval()


def model_file(path: Path, preprocessing: Preprocessing = COLOUR, name: str = "resnet8", **changes: Any) -> Path:
    """Write such a network as a model file."""
    model = network(preprocessing, name, **changes)
    save_model(path, model, ModelCard(model.config, CLASSES, preprocessing))
    return path
