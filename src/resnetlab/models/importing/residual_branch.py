"""The layers of one block → the residual function's convolutions in order, and the shortcut. No torch here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from resnetlab.models.importing.conv_bn_pairs import ConvBN, order_layers, pair_conv_bn, starts_with_norm
from resnetlab.models.importing.state_dict_layers import StateDictLayer
from resnetlab.models.importing.unsupported import UnsupportedError, is_attention, refuse_extra, unsupported

_SHORTCUT = re.compile(
    r"(downsample|down_sample|down|short_?cut|skip|identity|proj|branch1|sc($|_)|side)", re.IGNORECASE
)
"""How a component of a shortcut's name begins, in the repositories that are known."""


@dataclass(frozen=True)
class ResidualBlockLayers:
    """A block, understood."""

    name: str
    branch: tuple[ConvBN, ...]
    """F: two convolutions of 3x3, or 1x1, 3x3, 1x1."""
    shortcut: ConvBN | None
    """The projection, where there is one."""
    starts_with_norm: bool
    """Whether batch normalisation is known to come before the first convolution; shapes may say so as well."""

    @property
    def container(self) -> str:
        """Return what the block stands in: a stage."""
        return self.name.rpartition(".")[0]

    @property
    def in_channels(self) -> int:
        """Return the channels it reads."""
        return self.branch[0].conv.shape[1]

    @property
    def inner_channels(self) -> int:
        """Return the channels inside it."""
        return self.branch[0].conv.out_channels

    @property
    def out_channels(self) -> int:
        """Return the channels it puts out."""
        return self.branch[-1].conv.out_channels

    @property
    def norm_first(self) -> bool:
        """Say whether batch normalisation comes first, or fits what convolutions read and not what they put out."""
        units = [unit for unit in self.branch if unit.norm is not None]
        after = all(unit.norm.out_channels == unit.conv.out_channels for unit in units if unit.norm)
        before = all(unit.norm.out_channels == unit.conv.shape[1] for unit in units if unit.norm)
        return self.starts_with_norm or (before and not after)


def analyse_block(name: str, layers: Sequence[StateDictLayer], *, in_order: bool) -> ResidualBlockLayers:
    """Tell the convolutions of a block apart, by shape where that is enough and by name or order where it is not.

    With `in_order` the layers stand in the order in which the network registered them.

    Raises:
        UnsupportedError: for a block that is not one of the paper's; the message says what it is.
    """
    extra = [layer for layer in layers if layer.kind in ("linear", "other") or is_attention(name, layer)]
    if extra:
        refuse_extra(name, extra[0], "a ResNet")
    named = [layer for layer in layers if _is_shortcut(name, layer)]
    convs = [layer for layer in layers if layer.kind == "conv"]
    norms = [layer for layer in layers if layer.kind == "norm"]
    branch, shortcut = _split(name, convs, [conv for conv in convs if conv in named], in_order)
    if named or len(norms) == len(branch):
        on_branch, on_shortcut = [n for n in norms if n not in named], [n for n in norms if n in named]
        made = (
            pair_conv_bn(name, branch, on_branch, in_order=in_order),
            pair_conv_bn(name, shortcut, on_shortcut, in_order=in_order),
        )
    else:
        units = pair_conv_bn(name, order_layers(convs, in_order=in_order) if norms else convs, norms, in_order=in_order)
        of = {unit.conv.name: unit for unit in units}
        made = [of[conv.name] for conv in branch], [of[conv.name] for conv in shortcut]
    first = starts_with_norm([layer for layer in layers if layer not in named], in_order=in_order)
    block = ResidualBlockLayers(name, tuple(made[0]), made[1][0] if made[1] else None, first)
    _check(block)
    return block


def _split(
    name: str, convs: list[StateDictLayer], named: list[StateDictLayer], in_order: bool
) -> tuple[list[StateDictLayer], list[StateDictLayer]]:
    """Return the convolutions of the branch in order, and that of the shortcut if any."""
    branch = [conv for conv in convs if conv not in named]
    kernels = [conv.kernel for conv in branch]
    if not named and sorted(kernels) in ([1, 3, 3], [1, 1, 1, 3]):  # the shortcut has no name that is known
        points = [conv for conv in branch if conv.kernel == 1]
        named = points if len(points) == 1 else order_layers(points, in_order=in_order)[-1:]
        branch.remove(named[0])
        kernels = [conv.kernel for conv in branch]
    if sorted(kernels) == [1, 1, 3]:
        middle = branch.pop(kernels.index(3))
        narrow, wide = branch if branch[0].out_channels == middle.shape[0] else reversed(branch)
        branch = [narrow, middle, wide]
    elif kernels != [3, 3]:
        has = ", ".join(f"{kernel}x{kernel}" for kernel in kernels)
        raise UnsupportedError(
            f"{name} has convolutions of {has}, and the paper's blocks have 3x3, 3x3 or 1x1, 3x3, 1x1"
        )
    else:
        branch = order_layers(branch, in_order=in_order)
    if len(named) > 1 or any(conv.kernel != 1 for conv in named):
        has = ", ".join(f"{conv.name} ({conv.kernel}x{conv.kernel})" for conv in named)
        raise unsupported("a ResNet with other shortcuts", f"{has}; the paper's projection is one 1x1 convolution")
    return branch, named


def _is_shortcut(block: str, layer: StateDictLayer) -> bool:
    inner = layer.name.removeprefix(f"{block}.").split(".")
    return any(_SHORTCUT.match(part) for part in inner)


def _check(block: ResidualBlockLayers) -> None:
    """Refuse what does not fit together.

    Raises:
        UnsupportedError: for grouped convolutions, pooling in the shortcut, other widths.
    """
    convs = [unit.conv for unit in block.branch]
    for before, conv in pairwise(convs):
        if conv.shape[1] != before.out_channels:
            groups, rest = divmod(before.out_channels, conv.shape[1])
            if rest == 0 and groups > 1:
                raise unsupported("a ResNeXt", f"{conv.name} is in {groups} groups")
            raise UnsupportedError(
                f"{conv.name} reads {conv.shape[1]} channels, and {before.name} gives {before.out_channels}"
            )
    if len(convs) == 3 and block.out_channels != 4 * block.inner_channels:
        times = block.out_channels / block.inner_channels
        raise unsupported(
            "a wide ResNet, or another with bottlenecks of other proportions",
            f"{block.name} puts out {times:g} times the {block.inner_channels} channels inside it, and the paper's 4",
        )
    if block.shortcut is not None:
        _check_shortcut(block, block.shortcut)
    if block.norm_first:
        return
    for unit in (*block.branch, *([block.shortcut] if block.shortcut else [])):
        if unit.norm is not None and unit.norm.out_channels != unit.conv.out_channels:
            raise UnsupportedError(
                f"{unit.norm.name} has {unit.norm.out_channels} channels, and {unit.conv.name} "
                f"before it gives {unit.conv.out_channels}"
            )


def _check_shortcut(block: ResidualBlockLayers, shortcut: ConvBN) -> None:
    conv = shortcut.conv
    if conv.shape[:2] != (block.out_channels, block.in_channels):
        raise UnsupportedError(
            f"{conv.name} maps {conv.shape[1]} channels to {conv.out_channels}, and the block {block.in_channels} to "
            f"{block.out_channels}"
        )
    parent, _, position = conv.name.rpartition(".")
    if position.isdecimal() and position != "0" and parent != block.name:
        raise unsupported(
            "a ResNet with average pooling in its shortcuts (ResNet-D)",
            f"{conv.name} is not the first of its shortcut, and what stands before it has no weights",
        )
