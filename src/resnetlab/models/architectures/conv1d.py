"""A one-dimensional convolutional network, which reads an image as a sequence of its rows."""

import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.architecture_config import ArchitectureConfig

CHANNELS = 32


class Conv1dBlock(nn.Module):
    """Two convolutions of width 3 along the sequence."""

    def __init__(self, channels: int, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.conv1 = nn.Conv1d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm1d(channels)
        self.conv2 = nn.Conv1d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map a sequence (batch, channels, length) to one of the same shape."""
        branch = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(x + branch if self.residual else branch)


class Conv1dNet(nn.Module):
    """A network of 2n+2 layers: first convolution, n blocks, mean over the sequence, head.

    Element t of the sequence is row t of the image, with a feature for each pixel of the row, as recurrent networks are
    tested on rows of MNIST. No package that is installed with resnetlab has labelled time series.
    """

    gain = 2.0

    def __init__(self, config: ArchitectureConfig) -> None:
        super().__init__()
        row = config.in_channels * config.image_size
        self.stem = nn.Sequential(
            nn.Conv1d(row, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm1d(CHANNELS), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            *(Conv1dBlock(CHANNELS, residual=config.residual) for _ in range(config.num_blocks))
        )
        self.head = nn.Linear(CHANNELS, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, channels, size, size) to logits (batch, classes)."""
        rows = images.transpose(2, 3).flatten(1, 2)  # (batch, channels x width, height)
        return self.head(self.blocks(self.stem(rows)).mean(2))
