"""Layers of a block → convolutions in order, and the batch normalisation of each. No torch here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from resnetlab.models.importing.state_dict_layers import StateDictLayer, natural_sort_key
from resnetlab.models.importing.unsupported import UnsupportedError, unsupported

_COUNTER = re.compile(r"\d+|(?<![a-z])[a-z](?![a-z])", re.IGNORECASE)
"""What counts layers in their names: `conv1`, `bn_b`."""
_KIND = re.compile(r"conv(olution)?s?|batch_?norm(2d)?s?|bns?|norm(ali[sz]ation)?s?", re.IGNORECASE)
"""What names the kind of a layer: `conv_reduce` and `bn_reduce` are alike without it."""


@dataclass(frozen=True)
class ConvBN:
    """A convolution, and the batch normalisation after it."""

    conv: StateDictLayer
    norm: StateDictLayer | None


def order_layers(layers: Sequence[StateDictLayer], *, in_order: bool) -> list[StateDictLayer]:
    """Put layers of one kind in the order they are computed in.

    Names that differ in a number or a letter alone say it; of others the order they have, if that is `in_order`.

    Raises:
        UnsupportedError: where neither says it, naming the layers.
    """
    if _counted(layers):
        return sorted(layers, key=lambda layer: natural_sort_key(layer.name))
    if in_order:
        return list(layers)
    raise unsupported(
        "a ResNet of which nothing tells what comes first",
        f"{', '.join(layer.name for layer in layers)} differ by more than a number, and this file does not keep the "
        "order of the network; what torch.save makes of its state_dict() does",
    )


def starts_with_norm(layers: Sequence[StateDictLayer], *, in_order: bool) -> bool:
    """Say whether batch normalisation is known to come before the first convolution."""
    if _counted(layers):
        layers = sorted(layers, key=lambda layer: natural_sort_key(layer.name))
    elif not in_order:
        return False
    return layers[0].kind == "norm"


def pair_conv_bn(
    block: str, convs: Sequence[StateDictLayer], norms: Sequence[StateDictLayer], *, in_order: bool
) -> list[ConvBN]:
    """Put each convolution together with its batch normalisation: by name, or else the first with the first and so on.

    `convs` are in the order they are computed in.

    Raises:
        UnsupportedError: for another number of them than of convolutions, where it is not known which is which, or
            something stands between the two.
    """
    if not norms:
        return [ConvBN(conv, None) for conv in convs]
    if len(norms) != len(convs):
        raise unsupported(
            "a ResNet with other batch normalisation",
            f"{block} has {len(norms)} of them for {len(convs)} convolutions; the paper has one after each",
        )
    named = [[norm for norm in norms if _belong(conv, norm)] for conv in convs]
    found = [its[0] for its in named if len(its) == 1]
    if len({norm.name for norm in found}) < len(convs):
        found = order_layers(norms, in_order=in_order)
    made = [ConvBN(conv, norm) for conv, norm in zip(convs, found, strict=True)]
    for unit in made:
        _check_adjacent(unit)
    return made


def _counted(layers: Sequence[StateDictLayer]) -> bool:
    """Say whether names differ in a number or a letter alone, in the first part in which they differ."""
    pairs = combinations([layer.name.split(".") for layer in layers], 2)
    apart = (next(((a, b) for a, b in zip(one, other, strict=False) if a != b), ("", "")) for one, other in pairs)
    return all(_COUNTER.sub("#", a) == _COUNTER.sub("#", b) for a, b in apart)


def _belong(conv: StateDictLayer, norm: StateDictLayer) -> bool:
    """Say whether names put two layers together: alike but for the kind, or one behind the other in a Sequential."""
    after = _slots_between(conv, norm)
    return _label(conv) == _label(norm) if after is None else after == 0


def _label(layer: StateDictLayer) -> str:
    return ".".join(part for part in _KIND.sub("", layer.name).split(".") if part)


def _slots_between(conv: StateDictLayer, norm: StateDictLayer) -> int | None:
    """Return how many parts of a Sequential stand between two layers; `None` where they are not in one."""
    (parent, _, at), (other, _, behind) = conv.name.rpartition("."), norm.name.rpartition(".")
    if parent != other or not (at.isdecimal() and behind.isdecimal()):
        return None
    return int(behind) - int(at) - 1


def _check_adjacent(unit: ConvBN) -> None:
    """Refuse what stands between a convolution and its batch normalisation and has no weights.

    Raises:
        UnsupportedError: naming both.
    """
    between = None if unit.norm is None else _slots_between(unit.conv, unit.norm)
    if unit.norm is not None and between not in (None, 0):
        raise UnsupportedError(
            f"{unit.norm.name} does not stand directly behind {unit.conv.name}, and what is between them has no "
            "weights that would tell what it is, such as an average pool"
        )
