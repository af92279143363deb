"""Split the layers of one block into the convolutions of the residual function, in order, and the shortcut."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from resnetlab.models.importing.conv_bn_pairs import ConvBN, order_layers, pair_conv_bn, starts_with_norm
from resnetlab.models.importing.state_dict_layers import StateDictLayer
from resnetlab.models.importing.unsupported import UnsupportedError, is_attention, refuse_extra_layer, unsupported

_SHORTCUT = re.compile(
    r"(downsample|down_sample|down|short_?cut|skip|identity|proj|branch1|sc($|_)|side)", re.IGNORECASE
)
"""The start of a component of a shortcut's name, in published repositories."""


@dataclass(frozen=True)
class ResidualBlockLayers:
    """A block: the layers of its residual function and of its shortcut."""

    name: str
    branch: tuple[ConvBN, ...]
    """The residual function F: two 3x3 convolutions, or 1x1, 3x3, 1x1."""
    shortcut: ConvBN | None
    """The projection, if there is one."""
    starts_with_norm: bool
    """Whether batch normalisation is known to come before the first convolution; see also `norm_first`."""

    @property
    def container(self) -> str:
        """The module that contains the block: a stage."""
        return self.name.rpartition(".")[0]

    @property
    def in_channels(self) -> int:
        """Input channels of the block."""
        return self.branch[0].conv.shape[1]

    @property
    def inner_channels(self) -> int:
        """Output channels of the first convolution."""
        return self.branch[0].conv.out_channels

    @property
    def stage_channels(self) -> int:
        """The channels by which the stage is named: those of a basic block, a quarter of a bottleneck's output."""
        return self.inner_channels if len(self.branch) == 2 else self.out_channels // 4

    @property
    def groups(self) -> int:
        """Groups of the 3x3 convolution of a bottleneck."""
        return self.inner_channels // self.branch[1].conv.shape[1]

    @property
    def out_channels(self) -> int:
        """Output channels of the block."""
        return self.branch[-1].conv.out_channels

    @property
    def norm_first(self) -> bool:
        """Whether BN comes before its convolution: by its position, or because only the input's channels fit it."""
        pairs = [pair for pair in self.branch if pair.norm is not None]
        after = all(pair.norm.out_channels == pair.conv.out_channels for pair in pairs if pair.norm)
        before = all(pair.norm.out_channels == pair.conv.shape[1] for pair in pairs if pair.norm)
        return self.starts_with_norm or (before and not after)


def analyse_block(name: str, layers: Sequence[StateDictLayer], *, in_order: bool) -> ResidualBlockLayers:
    """Split a block into branch and shortcut, by shape where that is enough and else by name or order.

    With `in_order`, the layers are in the order in which the network registered them.

    Raises:
        UnsupportedError: for a block that is not one of the paper's; the message names its kind.
    """
    extra = [layer for layer in layers if layer.kind in ("linear", "other") or is_attention(name, layer)]
    if extra:
        refuse_extra_layer(name, extra[0], "a ResNet")
    named = [layer for layer in layers if _has_shortcut_name(name, layer)]
    convs = [layer for layer in layers if layer.kind == "conv"]
    norms = [layer for layer in layers if layer.kind == "norm"]
    branch, shortcut = _split_convs(name, convs, [conv for conv in convs if conv in named], in_order)
    if named or len(norms) == len(branch):
        branch_norms, shortcut_norms = [n for n in norms if n not in named], [n for n in norms if n in named]
        branch_pairs = pair_conv_bn(name, branch, branch_norms, in_order=in_order)
        shortcut_pairs = pair_conv_bn(name, shortcut, shortcut_norms, in_order=in_order)
    else:
        ordered = order_layers(convs, in_order=in_order) if norms else convs
        pairs = {pair.conv.name: pair for pair in pair_conv_bn(name, ordered, norms, in_order=in_order)}
        branch_pairs = [pairs[conv.name] for conv in branch]
        shortcut_pairs = [pairs[conv.name] for conv in shortcut]
    block = ResidualBlockLayers(
        name=name,
        branch=tuple(branch_pairs),
        shortcut=shortcut_pairs[0] if shortcut_pairs else None,
        starts_with_norm=starts_with_norm([layer for layer in layers if layer not in named], in_order=in_order),
    )
    _check_block(block)
    return block


def _split_convs(
    name: str, convs: list[StateDictLayer], named: list[StateDictLayer], in_order: bool
) -> tuple[list[StateDictLayer], list[StateDictLayer]]:
    """Return the convolutions of the branch in order, and that of the shortcut if there is one.

    `named` are those of `convs` that have the name of a shortcut.
    """
    branch = [conv for conv in convs if conv not in named]
    kernels = [conv.kernel for conv in branch]
    if not named and sorted(kernels) in ([1, 3, 3], [1, 1, 1, 3]):  # the shortcut has an unknown name
        pointwise = [conv for conv in branch if conv.kernel == 1]
        named = pointwise if len(pointwise) == 1 else order_layers(pointwise, in_order=in_order)[-1:]
        branch.remove(named[0])
        kernels = [conv.kernel for conv in branch]
    if sorted(kernels) == [1, 1, 3]:
        middle = branch.pop(kernels.index(3))
        narrow, wide = branch if branch[0].out_channels == middle.shape[0] else reversed(branch)
        branch = [narrow, middle, wide]
    elif kernels != [3, 3]:
        actual = ", ".join(f"{kernel}x{kernel}" for kernel in kernels)
        raise UnsupportedError(
            f"{name} has convolutions of {actual}, and the paper's blocks have 3x3, 3x3 or 1x1, 3x3, 1x1"
        )
    else:
        branch = order_layers(branch, in_order=in_order)
    if len(named) > 1 or any(conv.kernel != 1 for conv in named):
        actual = ", ".join(f"{conv.name} ({conv.kernel}x{conv.kernel})" for conv in named)
        raise unsupported("a ResNet with other shortcuts", f"{actual}; the paper's projection is one 1x1 convolution")
    return branch, named


def _has_shortcut_name(block: str, layer: StateDictLayer) -> bool:
    components = layer.name.removeprefix(f"{block}.").split(".")
    return any(_SHORTCUT.match(component) for component in components)


def _check_block(block: ResidualBlockLayers) -> None:
    """Refuse a block whose layers do not fit together.

    Raises:
        UnsupportedError: for grouped convolutions in a basic block, or other widths.
    """
    convs = [pair.conv for pair in block.branch]
    for before, conv in pairwise(convs):
        if conv.shape[1] != before.out_channels:
            groups, rest = divmod(before.out_channels, conv.shape[1])
            if rest == 0 and groups > 1 and len(convs) == 3 and conv is convs[1]:
                continue  # ResNeXt
            if rest == 0 and groups > 1:
                raise unsupported("a ResNet with groups in other convolutions", f"{conv.name} is in {groups} groups")
            raise UnsupportedError(
                f"{conv.name} reads {conv.shape[1]} channels, and the output of {before.name} has {before.out_channels}"
            )
    if block.shortcut is not None:
        _check_shortcut(block, block.shortcut)
    if block.norm_first:
        return
    for pair in (*block.branch, *([block.shortcut] if block.shortcut else [])):
        if pair.norm is not None and pair.norm.out_channels != pair.conv.out_channels:
            raise UnsupportedError(
                f"{pair.norm.name} has {pair.norm.out_channels} channels, and {pair.conv.name} before it has "
                f"{pair.conv.out_channels} output channels"
            )


def _check_shortcut(block: ResidualBlockLayers, shortcut: ConvBN) -> None:
    """Refuse a projection of other widths than its block's.

    Raises:
        UnsupportedError: naming the projection.
    """
    conv = shortcut.conv
    if conv.shape[:2] != (block.out_channels, block.in_channels):
        raise UnsupportedError(
            f"{conv.name} maps {conv.shape[1]} channels to {conv.out_channels}, and the block {block.in_channels} to "
            f"{block.out_channels}"
        )
