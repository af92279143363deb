"""A deep multi-layer perceptron: linear layers on the pixels, without any convolution."""

import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.architecture_config import ArchitectureConfig

WIDTH = 48


class MlpBlock(nn.Module):
    """Two linear layers: the basic block of a ResNet with matrices for kernels."""

    def __init__(self, width: int, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.linear1 = nn.Linear(width, width, bias=False)
        self.norm1 = nn.BatchNorm1d(width)
        self.linear2 = nn.Linear(width, width, bias=False)
        self.norm2 = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (batch, width) to features of the same shape."""
        branch = self.norm2(self.linear2(F.relu(self.norm1(self.linear1(x)))))
        return F.relu(x + branch if self.residual else branch)


class Mlp(nn.Module):
    """A multi-layer perceptron of 2n+2 layers: input layer, n blocks, head.

    Paper: section 3.2, which says that equation (1) holds for fully connected layers too.
    """

    gain = 2.0

    def __init__(self, config: ArchitectureConfig) -> None:
        super().__init__()
        inputs = config.in_channels * config.image_size**2
        self.stem = nn.Sequential(nn.Flatten(), nn.Linear(inputs, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU())
        self.blocks = nn.Sequential(*(MlpBlock(WIDTH, residual=config.residual) for _ in range(config.num_blocks)))
        self.head = nn.Linear(WIDTH, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, channels, size, size) to logits (batch, classes)."""
        return self.head(self.blocks(self.stem(images)))
