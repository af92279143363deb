"""Squeeze-and-excitation: each channel of the residual function is scaled by a number that follows from all of them.

Paper: Hu et al. (2018), "Squeeze-and-Excitation Networks", equations 2 to 4 and Figure 3.
"""

import torch
from torch import Tensor, nn

from resnetlab.config import ModelConfig
from resnetlab.models.blocks import BasicBlock, Block, Bottleneck

REDUCTION = 16
"""r, the ratio of channels to hidden units (section 6.4: a good compromise)."""


class SqueezeExcitation(nn.Module):
    """x * sigmoid(W2 ReLU(W1 mean(x))), with the mean over positions; 1x1 convolutions with timm's names."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // REDUCTION)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of maps (batch, channels, height, width)."""
        squeezed = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(squeezed))))


class Excited(Block):
    """A block whose F ends with squeeze-and-excitation."""

    se: SqueezeExcitation

    @property
    def residual_end(self) -> nn.Module:
        """The scaling of the channels."""
        return self.se

    @classmethod
    def identity_obstacle(cls, config: ModelConfig) -> str | None:
        """A plain block always scales its input by less than 1."""
        return "it scales each channel by a sigmoid, which is below 1" if config.shortcut == "none" else None

    def residual(self, x: Tensor) -> Tensor:
        """Compute F(x) and scale its channels."""
        return self.se(super().residual(x))


class ExcitedBlock(Excited, BasicBlock):
    """Squeeze-and-excitation behind two 3x3 convolutions."""

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__(config, in_channels, channels, stride=stride)
        self.se = SqueezeExcitation(channels)


class ExcitedBottleneck(Excited, Bottleneck):
    """Squeeze-and-excitation behind the bottleneck: SE-ResNet-50."""

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__(config, in_channels, channels, stride=stride)
        self.se = SqueezeExcitation(channels * self.expansion)
