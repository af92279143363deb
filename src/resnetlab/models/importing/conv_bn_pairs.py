"""Pair the convolutions of a block with their batch normalisations, and put both in the order of computation."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from resnetlab.models.importing.state_dict_layers import StateDictLayer, natural_sort_key
from resnetlab.models.importing.unsupported import UnsupportedError, unsupported

BN_EPSILON = 1e-5
"""The epsilon of `torch.nn.BatchNorm2d`, added to the variance."""
_COUNTER = re.compile(r"\d+|(?<![a-z])[a-z](?![a-z])", re.IGNORECASE)
"""The number or letter that counts layers in their names: `conv1`, `bn_b`."""
_KIND = re.compile(r"conv(olution)?s?|batch_?norm(2d)?s?|bns?|norm(ali[sz]ation)?s?", re.IGNORECASE)
"""The part of a name that gives the layer's kind: without it, `conv_reduce` and `bn_reduce` are equal."""


@dataclass(frozen=True)
class ConvBN:
    """A convolution, and the batch normalisation behind it if there is one."""

    conv: StateDictLayer
    norm: StateDictLayer | None


def order_layers(layers: Sequence[StateDictLayer], *, in_order: bool) -> list[StateDictLayer]:
    """Return layers of one kind in the order of computation.

    Names that differ only in a number or a letter determine the order. Other layers stay as they are if the file stores
    the network's order (`in_order`).

    Raises:
        UnsupportedError: if neither determines the order; the message names the layers.
    """
    if _are_counted(layers):
        return sorted(layers, key=lambda layer: natural_sort_key(layer.name))
    if in_order:
        return list(layers)
    raise unsupported(
        "a ResNet whose layers have no known order",
        f"{', '.join(layer.name for layer in layers)} differ by more than a number, and this file does not store the "
        "order of the network; save its state_dict() with torch.save, which does",
    )


def starts_with_norm(layers: Sequence[StateDictLayer], *, in_order: bool) -> bool:
    """Return whether batch normalisation is known to come before the first convolution."""
    if _are_counted(layers):
        layers = sorted(layers, key=lambda layer: natural_sort_key(layer.name))
    elif not in_order:
        return False
    return layers[0].kind == "norm"


def pair_conv_bn(
    block: str, convs: Sequence[StateDictLayer], norms: Sequence[StateDictLayer], *, in_order: bool
) -> list[ConvBN]:
    """Pair each convolution with its batch normalisation: by name, or else by position.

    `convs` are in the order of computation.

    Raises:
        UnsupportedError: if the numbers of both differ, if the pairs are unknown, or if a layer without weights stands
            between the two of a pair.
    """
    if not norms:
        return [ConvBN(conv, None) for conv in convs]
    if len(norms) != len(convs):
        raise unsupported(
            "a ResNet with other batch normalisation",
            f"{block} has {len(norms)} batch normalisations for {len(convs)} convolutions; the paper has one each",
        )
    by_name = [[norm for norm in norms if _names_match(conv, norm)] for conv in convs]
    ordered = [matches[0] for matches in by_name if len(matches) == 1]
    if len({norm.name for norm in ordered}) < len(convs):
        ordered = order_layers(norms, in_order=in_order)
    pairs = [ConvBN(conv, norm) for conv, norm in zip(convs, ordered, strict=True)]
    for pair in pairs:
        _check_adjacent(pair)
    return pairs


def _are_counted(layers: Sequence[StateDictLayer]) -> bool:
    """Return whether the first components in which any two names differ are equal up to a number or letter."""
    pairs = combinations([layer.name.split(".") for layer in layers], 2)
    differing = (next(((a, b) for a, b in zip(one, other, strict=False) if a != b), ("", "")) for one, other in pairs)
    return all(_COUNTER.sub("#", a) == _COUNTER.sub("#", b) for a, b in differing)


def _names_match(conv: StateDictLayer, norm: StateDictLayer) -> bool:
    """Return whether names pair two layers: equal up to the kind, or one behind the other in a Sequential."""
    between = _positions_between(conv, norm)
    return _name_without_kind(conv) == _name_without_kind(norm) if between is None else between == 0


def _name_without_kind(layer: StateDictLayer) -> str:
    return ".".join(part for part in _KIND.sub("", layer.name).split(".") if part)


def _positions_between(conv: StateDictLayer, norm: StateDictLayer) -> int | None:
    """Return the number of modules between two layers of one Sequential; `None` if they are not in one."""
    (parent, _, at), (other, _, behind) = conv.name.rpartition("."), norm.name.rpartition(".")
    if parent != other or not (at.isdecimal() and behind.isdecimal()):
        return None
    return int(behind) - int(at) - 1


def _check_adjacent(pair: ConvBN) -> None:
    """Refuse a module without weights between a convolution and its batch normalisation.

    Raises:
        UnsupportedError: naming both.
    """
    between = None if pair.norm is None else _positions_between(pair.conv, pair.norm)
    if pair.norm is not None and between not in (None, 0):
        raise UnsupportedError(
            f"{pair.norm.name} does not stand directly behind {pair.conv.name}; the module between them has no weights "
            "that identify it, and may be an average pool"
        )
