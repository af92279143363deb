"""A network as others take it: pixels in, normalisation inside, batch normalisation folded; and its ONNX graph."""

import torch
from torch import Tensor, nn

from resnetlab.config import Preprocessing
from resnetlab.models.fold import folded
from resnetlab.models.resnet import ResNet


class Shipped(nn.Module):
    """A network with its normalisation: uint8 images (batch, height, width, channels) → logits (batch, num_classes).

    Pixels stand as image libraries give them, colours last.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: ResNet, preprocessing: Preprocessing) -> None:
        super().__init__()
        size, channels = preprocessing.image_size, len(preprocessing.mean)
        mean = torch.tensor(preprocessing.pixel_mean or preprocessing.mean, dtype=torch.float32)
        shape = (channels, size, size) if preprocessing.pixel_mean else (channels, 1, 1)
        self.network = folded(model)
        self.register_buffer("mean", mean.view(shape))
        self.register_buffer("std", torch.tensor(preprocessing.std, dtype=torch.float32).view(channels, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits: float32 (batch, num_classes)."""
        return self.network((images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std)
