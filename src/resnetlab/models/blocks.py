"""The residual blocks of the paper, their shortcuts, and the class that all blocks extend.

Paper: He et al. (2015), section 3.2 (equations 1 and 2), section 3.3 (options A, B, C) and Figure 5 (bottleneck).
"""

from typing import ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.config import ModelConfig, Norm
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
    takes_width: ClassVar[bool] = False
    """Whether the block has the widths of `ModelConfig.groups` and `width_per_group`."""
    needs_shortcut: ClassVar[bool] = False
    """Whether a plain network of such blocks makes no sense: its output would be 0 or random."""
    required_norm: ClassVar[Norm | None] = None
    """The only `ModelConfig.norm` of the block; any if `None`."""
    normalises_sum: ClassVar[bool] = False
    """Whether BN follows the addition (`norm_after_addition`)."""
    final_norm: ClassVar[bool] = False
    """Whether the network normalises and rectifies the output of its last block, because the block itself does not."""
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

    def set_position(self, index: int, num_blocks: int) -> None:
        """Learn that this is block `index`, from 0, of `num_blocks` on the path from the stem to the head."""

    @classmethod
    def initialise_network(cls, blocks: "list[Block]", head: nn.Linear) -> None:
        """Change the initial weights of a network of such blocks, after the usual ones were drawn."""

    @classmethod
    def identity_obstacle(cls, config: ModelConfig) -> str | None:
        """Return why a block of this network cannot be the identity in both modes; `None` if it can.

        The text completes the sentence "such a block cannot be the identity: …".
        """
        return None

    def zero_residual(self) -> None:
        """Make F zero, so that F can still learn: its last BN gets scale and shift 0 (norm "none": its last kernel)."""
        conv, norm = self.conv_layers()[-1]
        for parameter in (norm if isinstance(norm, nn.BatchNorm2d) else conv).parameters():
            nn.init.zeros_(parameter)

    @property
    def norm_after_addition(self) -> nn.Module | None:
        """The normalisation of F(x) + shortcut(x), if the block has one."""
        return None

    @property
    def residual_end(self) -> nn.Module:
        """The module whose output is F(x)."""
        return self.conv_layers()[-1][1]

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
    """F of three convolutions: 1x1 to `channels`, 3x3, and 1x1 to four times as many (Figure 5, right).

    With `groups` and `width_per_group` the 3x3 convolution has other channels: ResNeXt and wide networks.
    """

    num_convs = 3
    expansion = 4
    takes_width = True

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, *, stride: int) -> None:
        """Build the layers."""
        super().__init__(config, in_channels, channels, stride=stride)
        out_channels, width = channels * self.expansion, config.group_width(channels)
        stride1, stride2 = (stride, 1) if config.bottleneck_stride == "1x1" else (1, stride)
        self.conv1 = make_conv(config, in_channels, width, kernel=1, stride=stride1)
        self.bn1 = make_norm(config, width)
        self.conv2 = make_conv(config, width, width, kernel=3, stride=stride2, groups=config.groups)
        self.bn2 = make_norm(config, width)
        self.conv3 = make_conv(config, width, out_channels, kernel=1)
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


class AveragedConv1x1(nn.Conv2d):
    """A 1x1 convolution of the average of each `stride` x `stride` positions, as in ResNet-D's shortcut.

    Parts of a square beyond the border are left out of the average, as in timm.

    Paper: He, T. et al. (2019), "Bag of Tricks for Image Classification with Convolutional Neural Networks", section 4.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Conv2d
        """Map (batch, in_channels, h, w) to (batch, out_channels, ceil(h / stride), ceil(w / stride))."""
        averaged = F.avg_pool2d(input, self.stride, self.stride, ceil_mode=True, count_include_pad=False)
        return F.conv2d(averaged, self.weight, self.bias)


NARROW = 16
"""Input channels below which a strided 1x1 convolution is a `SubsampledConv1x1`; no network of the paper has fewer."""


def make_conv(
    config: ModelConfig,
    in_channels: int,
    out_channels: int,
    *,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool | None = None,
) -> nn.Conv2d:
    """Return a convolution padded to the size of its input over `stride`.

    If `bias` is not given, it has a bias only if no BN follows.
    """
    bias = config.norm == "none" if bias is None else bias
    if kernel == 1 and stride > 1 and in_channels < NARROW:
        return SubsampledConv1x1(in_channels, out_channels, 1, stride, bias=bias)
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)


def make_norm(config: ModelConfig, channels: int) -> nn.Module:
    """Return the layer behind a convolution: batch normalisation, or the identity with `norm="none"`."""
    return nn.BatchNorm2d(channels) if config.norm == "batch" else nn.Identity()


def make_shortcut(
    config: ModelConfig, in_channels: int, out_channels: int, *, stride: int, norm: bool = True
) -> nn.Module | None:
    """Return the shortcut of `config.shortcut`: `None`, the identity, option A's padding, or the projection W_s.

    Without `norm`, no BN follows a projection.
    """
    if config.shortcut == "none":
        return None
    same_shape = stride == 1 and in_channels == out_channels
    if config.shortcut == "project_all" or (config.shortcut == "project" and not same_shape):
        if config.average_shortcut and stride > 1:
            bias = config.norm == "none"
            projection = AveragedConv1x1(in_channels, out_channels, 1, stride, bias=bias)
        else:
            projection = make_conv(config, in_channels, out_channels, kernel=1, stride=stride)
        return nn.Sequential(projection, make_norm(config, out_channels) if norm else nn.Identity())
    return nn.Identity() if same_shape else PadShortcut(out_channels - in_channels, stride)


def relu(x: Tensor) -> Tensor:
    """Overwrite `x` with max(x, 0): no sum, convolution or BN reads its own output in the backward pass."""
    return F.relu(x, inplace=True)
