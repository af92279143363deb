"""Residual blocks, their shortcuts, and the registry of blocks.

Paper: He et al. (2015), section 3.2 (equations 1 and 2), section 3.3 (options A, B, C) and Figure 5 (bottleneck).
"""

from typing import ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.config import BLOCK_PROPERTIES, BlockProperties, ModelConfig
from resnetlab.serialization import check


class Block(nn.Module):
    """A residual block, y = ReLU(F(x) + shortcut(x)); in a plain network y = ReLU(F(x)).

    Maps (batch, in_channels, h, w) to (batch, channels * expansion, ceil(h / stride), ceil(w / stride)).

    A subclass declares `num_convs` and `expansion`. It names the convolutions of F `conv1` … `convN` and the layer that
    `make_norm` puts behind each `bn1` … `bnN`; F ends with bnN. It registers `downsample` (`make_shortcut`) last.
    These are torchvision's names, so the state-dict keys are torchvision's too.
    """

    num_convs: ClassVar[int]
    """Convolutions in F."""
    expansion: ClassVar[int]
    """Output channels of the block over its inner channels."""
    downsample: nn.Module | None
    """The shortcut; `None` in a plain network."""

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers of a block with `channels` inner channels."""
        super().__init__()

    def residual(self, x: Tensor) -> Tensor:
        """Compute F(x, {W_i}), the residual function: everything before the addition and the last ReLU."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Add the shortcut to the residual function (equations 1 and 2)."""
        branch = self.residual(x)
        if self.downsample is None:  # the plain network: the control arm of the experiment
            return relu(branch)
        return relu(branch + self.downsample(x))

    def conv_layers(self) -> list[tuple[nn.Conv2d, nn.Module]]:
        """Return each convolution of F with the layer behind it (BN or identity), in the order of computation.

        Raises:
            ConfigError: if the block has no layer of an expected name.
        """
        layers = dict(self.named_children())
        names = [(f"conv{i}", f"bn{i}") for i in range(1, self.num_convs + 1)]
        missing = [name for pair in names for name in pair if name not in layers]
        expected = f"conv1 to conv{self.num_convs} and bn1 to bn{self.num_convs}"
        check(not missing, f"{type(self).__name__} has no layer {', '.join(missing)}; name its layers {expected}")
        return [(cast("nn.Conv2d", layers[conv]), layers[norm]) for conv, norm in names]


class BasicBlock(Block):
    """F = BN(W2 ReLU(BN(W1 x))): two 3x3 convolutions, the first with the stride (Figure 5, left)."""

    num_convs = 2
    expansion = 1

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__(config, in_channels, channels, stride=stride)
        self.conv1 = make_conv(config, in_channels, channels, kernel=3, stride=stride)
        self.bn1 = make_norm(config, channels)
        self.conv2 = make_conv(config, channels, channels, kernel=3)
        self.bn2 = make_norm(config, channels)
        self.downsample = make_shortcut(config, in_channels, channels, stride=stride)

    def residual(self, x: Tensor) -> Tensor:
        """Compute the two 3x3 convolutions."""
        x = relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))


class Bottleneck(Block):
    """F of three convolutions: 1x1 to `channels`, 3x3, and 1x1 to four times as many (Figure 5, right)."""

    num_convs = 3
    expansion = 4

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__(config, in_channels, channels, stride=stride)
        out_channels = channels * self.expansion
        stride1, stride2 = (stride, 1) if config.bottleneck_stride == "1x1" else (1, stride)
        self.conv1 = make_conv(config, in_channels, channels, kernel=1, stride=stride1)
        self.bn1 = make_norm(config, channels)
        self.conv2 = make_conv(config, channels, channels, kernel=3, stride=stride2)
        self.bn2 = make_norm(config, channels)
        self.conv3 = make_conv(config, channels, out_channels, kernel=1)
        self.bn3 = make_norm(config, out_channels)
        self.downsample = make_shortcut(config, in_channels, out_channels, stride=stride)

    def residual(self, x: Tensor) -> Tensor:
        """Compute the 1x1, 3x3 and 1x1 convolutions."""
        x = relu(self.bn1(self.conv1(x)))
        x = relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


class PadShortcut(nn.Module):
    """Option A: the identity, subsampled by `stride`, with zeros for the added channels. It has no parameters."""

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.extra_channels = extra_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, c, h, w) to (batch, c + extra_channels, ceil(h / stride), ceil(w / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra_channels))


class SubsampledConv1x1(nn.Conv2d):
    """A strided 1x1 convolution that subsamples its input first; weights and result are those of `nn.Conv2d`.

    oneDNN in PyTorch 2.13 writes beyond its buffers in the backward pass of a strided 1x1 convolution in channels_last
    with few input channels (4 and 6 seen) on processors with AVX2 but no AVX-512, and ends the process.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Conv2d
        """Map (batch, in_channels, h, w) to (batch, out_channels, ceil(h / stride), ceil(w / stride))."""
        row, column = self.stride
        return F.conv2d(input[:, :, ::row, ::column], self.weight, self.bias)


NARROW = 16
"""Input channels below which a strided 1x1 convolution is a `SubsampledConv1x1`; no network of the paper has fewer."""

BLOCKS: dict[str, type[Block]] = {"basic": BasicBlock, "bottleneck": Bottleneck}
"""The class of each value of `ModelConfig.block`."""


def register_block(name: str, block_class: type[Block]) -> None:
    """Register a block under a name, so that `ModelConfig(block=name)` and `build_model(..., block=name)` use it.

    A model file stores the name, not the class: register the block in every process that loads the file.

    Raises:
        ConfigError: if the name is empty or taken, if the class is no subclass of `Block`, or if it does not declare
            `num_convs` and `expansion` as integers of at least 1.
    """
    taken = BLOCKS.get(name)
    check(isinstance(name, str) and name != "", f"a block needs a name of at least one letter, not {name!r}")
    check(taken is None, f"block name {name!r} is taken by {getattr(taken, '__name__', '')}; choose another name")
    subclass = isinstance(block_class, type) and issubclass(block_class, Block)
    check(subclass, f"block {name!r} must be a subclass of resnetlab.models.blocks.Block, not {block_class!r}")
    for field in ("num_convs", "expansion"):
        value = getattr(block_class, field, None)
        message = f"{block_class.__name__}.{field} must be an integer of at least 1, not {value!r}; declare it"
        check(type(value) is int and value >= 1, message)
    BLOCKS[name] = block_class
    BLOCK_PROPERTIES[name] = BlockProperties(num_convs=block_class.num_convs, expansion=block_class.expansion)


def make_conv(config: ModelConfig, in_channels: int, out_channels: int, *, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution padded to the size of its input over `stride`; it has a bias only if no BN follows."""
    bias = config.norm == "none"
    if kernel == 1 and stride > 1 and in_channels < NARROW:
        return SubsampledConv1x1(in_channels, out_channels, 1, stride, bias=bias)
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=bias)


def make_norm(config: ModelConfig, channels: int) -> nn.Module:
    """Return the layer behind a convolution: batch normalisation, or the identity with `norm="none"`."""
    return nn.BatchNorm2d(channels) if config.norm == "batch" else nn.Identity()


def make_shortcut(config: ModelConfig, in_channels: int, out_channels: int, *, stride: int) -> nn.Module | None:
    """Return the shortcut of `config.shortcut`: `None`, the identity, option A's padding, or the projection W_s."""
    if config.shortcut == "none":
        return None
    same_shape = stride == 1 and in_channels == out_channels
    if config.shortcut == "project_all" or (config.shortcut == "project" and not same_shape):
        projection = make_conv(config, in_channels, out_channels, kernel=1, stride=stride)
        return nn.Sequential(projection, make_norm(config, out_channels))
    return nn.Identity() if same_shape else PadShortcut(out_channels - in_channels, stride)


def relu(x: Tensor) -> Tensor:
    """Overwrite `x` with max(x, 0): no sum, convolution or BN reads its own output in the backward pass."""
    return F.relu(x, inplace=True)
