"""The residual functions F (basic, bottleneck) and the shortcuts (none, pad, project).

Paper: section 3.2, equations 1 and 2; section 3.3 for the options A, B, C; Figure 5 for the bottleneck.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.config import ModelConfig


def relu(x: Tensor) -> Tensor:
    """Overwrite `x` with max(x, 0): the sum, convolution or BN it comes from does not need its own output again."""
    return F.relu(x, inplace=True)


class PadShortcut(nn.Module):
    """Option A: the identity, subsampled by `stride`, with zeros for the channels it lacks. No parameter."""

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.extra_channels = extra_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, c, h, w) to (batch, c + extra_channels, ceil(h / stride), ceil(w / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra_channels))


class Block(nn.Module):
    """y = ReLU(F(x) + shortcut(x)), or y = ReLU(F(x)) in a plain network.

    Maps (batch, in_channels, h, w) to (batch, out_channels, ceil(h / stride), ceil(w / stride)).
    The shortcut is called `downsample`, and the layers as they are, so that the keys are torchvision's.
    """

    downsample: nn.Module | None

    def residual(self, x: Tensor) -> Tensor:
        """Compute F(x, {W_i}): the branch whose weights are learnt, before the addition and the last ReLU."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Add the shortcut to the residual function (equations 1 and 2)."""
        branch = self.residual(x)
        if self.downsample is None:  # the plain network: the control arm of the experiment
            return relu(branch)
        return relu(branch + self.downsample(x))


class BasicBlock(Block):
    """F = BN(W2 ReLU(BN(W1 x))): two 3x3 convolutions, the first with the stride."""

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(config, in_channels, channels, 3, stride)
        self.bn1 = norm(config, channels)
        self.conv2 = conv(config, channels, channels, 3)
        self.bn2 = norm(config, channels)
        self.downsample = shortcut(config, in_channels, channels, stride)

    def residual(self, x: Tensor) -> Tensor:
        """Compute the two 3x3 convolutions."""
        return self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))


class Bottleneck(Block):
    """F of three convolutions: 1x1 reduces the channels, 3x3 works, 1x1 restores four times as many."""

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * config.expansion
        first, second = (stride, 1) if config.bottleneck_stride == "1x1" else (1, stride)
        self.conv1 = conv(config, in_channels, channels, 1, first)
        self.bn1 = norm(config, channels)
        self.conv2 = conv(config, channels, channels, 3, second)
        self.bn2 = norm(config, channels)
        self.conv3 = conv(config, channels, out_channels, 1)
        self.bn3 = norm(config, out_channels)
        self.downsample = shortcut(config, in_channels, out_channels, stride)

    def residual(self, x: Tensor) -> Tensor:
        """Compute the 1x1, 3x3 and 1x1 convolutions."""
        x = relu(self.bn1(self.conv1(x)))
        x = relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


def conv(config: ModelConfig, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Make a convolution that keeps the map's size but for its stride; with a bias only where no BN follows."""
    bias = config.norm == "none"
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=bias)


def norm(config: ModelConfig, channels: int) -> nn.Module:
    """Make the layer after a convolution: batch normalisation, or nothing."""
    return nn.BatchNorm2d(channels) if config.norm == "batch" else nn.Identity()


def shortcut(config: ModelConfig, in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Make the shortcut that `config.shortcut` asks for: nothing, the identity, A's padding or a projection W_s."""
    if config.shortcut == "none":
        return None
    same_shape = stride == 1 and in_channels == out_channels
    if config.shortcut == "project_all" or (config.shortcut == "project" and not same_shape):
        return nn.Sequential(conv(config, in_channels, out_channels, 1, stride), norm(config, out_channels))
    return nn.Identity() if same_shape else PadShortcut(out_channels - in_channels, stride)
