"""A network in the manner of VGG: stages of 3x3 convolutions, max pooling between them, and a linear head."""

import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.architecture_config import ArchitectureConfig

CHANNELS = (12, 24, 48)
"""Channels of the three stages."""


class VggBlock(nn.Module):
    """Two 3x3 convolutions at one size and number of channels."""

    def __init__(self, channels: int, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (batch, channels, height, width) to features of the same shape."""
        branch = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(x + branch if self.residual else branch)


class Vgg(nn.Module):
    """A network of 6n+4 layers: three stages of one convolution and n blocks each, and the head.

    The convolution that begins a stage changes the channels, so no block needs a projection, and no shortcut passes it.

    Differs: Simonyan and Zisserman (2015) have no batch normalisation (torchvision's `vgg16_bn` has), and three linear
    layers with dropout at the end.
    """

    gain = 2.0

    def __init__(self, config: ArchitectureConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = config.in_channels
        for stage, channels in enumerate(CHANNELS):
            layers += [nn.MaxPool2d(2)] if stage else []
            layers += [nn.Conv2d(before, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
            layers += [VggBlock(channels, residual=config.residual) for _ in range(config.num_blocks)]
            before = channels
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(CHANNELS[-1] * (config.image_size // 4) ** 2, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, channels, size, size) to logits (batch, classes)."""
        return self.head(self.features(images).flatten(1))
