"""The layers of one block → the residual function's convolutions in order, and the shortcut. No torch here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from resnetlab.models.layers import Layer, in_natural_order
from resnetlab.models.strangers import UnsupportedError, is_attention, not_supported, refuse_extra

_SHORTCUT = re.compile(
    r"(downsample|down_sample|down|short_?cut|skip|identity|proj|branch1|sc($|_)|side)", re.IGNORECASE
)
"""How a component of a shortcut's name begins, in the repositories that are known."""


@dataclass(frozen=True)
class Unit:
    """A convolution, and the batch normalisation after it."""

    conv: Layer
    norm: Layer | None


@dataclass(frozen=True)
class Branches:
    """A block, understood."""

    name: str
    branch: tuple[Unit, ...]
    """F: two convolutions of 3x3, or 1x1, 3x3, 1x1."""
    shortcut: Unit | None
    """The projection, where there is one."""

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
        """Say whether batch normalisation fits what its convolutions read, and not what they put out."""
        units = [unit for unit in self.branch if unit.norm is not None]
        after = all(unit.norm.out_channels == unit.conv.out_channels for unit in units if unit.norm)
        return not after and all(unit.norm.out_channels == unit.conv.shape[1] for unit in units if unit.norm)


def branches(name: str, layers: Sequence[Layer]) -> Branches:
    """Tell the convolutions of a block apart, by shape where that is enough and by name where it is not.

    Raises:
        UnsupportedError: for a block that is not one of the paper's; the message says what it is.
    """
    extra = [layer for layer in layers if layer.kind in ("linear", "other") or is_attention(name, layer)]
    if extra:
        refuse_extra(name, extra[0], "a ResNet")
    convs = in_natural_order(layer for layer in layers if layer.kind == "conv")
    norms = in_natural_order(layer for layer in layers if layer.kind == "norm")
    named = [layer for layer in (*convs, *norms) if _is_shortcut(name, layer)]
    branch, shortcut = _split(name, convs, [conv for conv in convs if conv in named])
    if named or len(norms) == len(branch):
        on_branch, on_shortcut = [n for n in norms if n not in named], [n for n in norms if n in named]
        made = _pair(name, branch, on_branch), _pair(name, shortcut, on_shortcut)
    else:
        made = _pair_all(name, branch, shortcut, convs, norms)
    block = Branches(name, tuple(made[0]), made[1][0] if made[1] else None)
    _check(block)
    return block


def _split(name: str, convs: list[Layer], named: list[Layer]) -> tuple[list[Layer], list[Layer]]:
    """Return the convolutions of the branch in order, and that of the shortcut if any."""
    branch = [conv for conv in convs if conv not in named]
    kernels = [conv.kernel for conv in branch]
    if not named and sorted(kernels) in ([1, 3, 3], [1, 1, 1, 3]):  # the shortcut has no name that is known
        spare = kernels.index(1) if len(branch) == 3 else max(i for i, kernel in enumerate(kernels) if kernel == 1)
        named = [branch.pop(spare)]
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
    if len(named) > 1 or any(conv.kernel != 1 for conv in named):
        has = ", ".join(f"{conv.name} ({conv.kernel}x{conv.kernel})" for conv in named)
        raise not_supported("a ResNet with other shortcuts", f"{has}; the paper's projection is one 1x1 convolution")
    return branch, named


def _pair(name: str, convs: Sequence[Layer], norms: Sequence[Layer]) -> list[Unit]:
    """Put each convolution together with its batch normalisation: the first with the first, and so on."""
    if norms and len(norms) != len(convs):
        raise not_supported(
            "a ResNet with other batch normalisation",
            f"{name} has {len(norms)} of them for {len(convs)} convolutions; the paper has one after each",
        )
    if not norms:
        return [Unit(conv, None) for conv in convs]
    order = in_natural_order(convs)  # norms are in that order, and 1x1, 3x3, 1x1 may not be
    return [Unit(conv, norms[order.index(conv)]) for conv in convs]


def _pair_all(
    name: str, branch: list[Layer], shortcut: list[Layer], convs: list[Layer], norms: list[Layer]
) -> tuple[list[Unit], list[Unit]]:
    units = {unit.conv.name: unit for unit in _pair(name, convs, norms)}
    return [units[conv.name] for conv in branch], [units[conv.name] for conv in shortcut]


def _is_shortcut(block: str, layer: Layer) -> bool:
    inner = layer.name.removeprefix(f"{block}.").split(".")
    return any(_SHORTCUT.match(part) for part in inner)


def _check(block: Branches) -> None:
    """Refuse what does not fit together.

    Raises:
        UnsupportedError: for grouped convolutions, pooling in the shortcut, other widths.
    """
    convs = [unit.conv for unit in block.branch]
    for before, conv in pairwise(convs):
        if conv.shape[1] != before.out_channels:
            groups, rest = divmod(before.out_channels, conv.shape[1])
            if rest == 0 and groups > 1:
                raise not_supported("a ResNeXt", f"{conv.name} is in {groups} groups")
            raise UnsupportedError(f"{conv.name} reads {conv.shape[1]} channels, and {before.name} gives "
                                   f"{before.out_channels}")  # fmt: skip
    if len(convs) == 3 and block.out_channels != 4 * block.inner_channels:
        times = block.out_channels / block.inner_channels
        raise not_supported(
            "a wide ResNet, or another with bottlenecks of other proportions",
            f"{block.name} puts out {times:g} times the {block.inner_channels} channels inside it, and the paper's 4",
        )
    if block.shortcut is not None:
        _check_shortcut(block, block.shortcut)
    if block.norm_first:
        return
    for unit in (*block.branch, *([block.shortcut] if block.shortcut else [])):
        if unit.norm is not None and unit.norm.out_channels != unit.conv.out_channels:
            raise UnsupportedError(f"{unit.norm.name} has {unit.norm.out_channels} channels, and {unit.conv.name} "
                                   f"before it gives {unit.conv.out_channels}")  # fmt: skip


def _check_shortcut(block: Branches, shortcut: Unit) -> None:
    conv = shortcut.conv
    if conv.shape[:2] != (block.out_channels, block.in_channels):
        raise UnsupportedError(
            f"{conv.name} maps {conv.shape[1]} channels to {conv.out_channels}, and the block {block.in_channels} to "
            f"{block.out_channels}"
        )
    parent, _, position = conv.name.rpartition(".")
    if position.isdecimal() and position != "0" and parent != block.name:
        raise not_supported(
            "a ResNet with average pooling in its shortcuts (ResNet-D)",
            f"{conv.name} is not the first of its shortcut, and what stands before it has no weights",
        )
