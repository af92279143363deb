"""Keys and shapes of a state dict → the layers they belong to, and the blocks these stand in. No torch here."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Shape = tuple[int, ...]
Kind = Literal["conv", "norm", "linear", "other"]

LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
IGNORED = ("total_ops", "total_params", "n_averaged")
"""Counters that profilers (thop) and weight averaging leave in a state dict; nothing is computed with them."""
_NUMBERED = re.compile(r"(?!conv|stem|bn|norm)[a-z_]*\d+", re.IGNORECASE)
"""What a block's own name looks like: `0`, `unit1`; a `conv1` of several convolutions is a stem."""


@dataclass(frozen=True)
class StateDictLayer:
    """Tensors that share a prefix."""

    name: str
    """The prefix: `module.layer1.0.conv1`."""
    kind: Kind
    """`norm` has running statistics; `other` is all that is neither a 2-d convolution, such a norm nor linear."""
    shape: Shape
    """Of its weight; of a norm, of its running mean."""
    keys: Mapping[str, str]
    """The last component of each key, and the key."""

    @property
    def out_channels(self) -> int:
        """Return how many channels it puts out."""
        return self.shape[0]

    @property
    def kernel(self) -> int:
        """Return the larger side of a convolution's kernel."""
        return max(self.shape[2:])


@dataclass(frozen=True)
class NetworkOutline:
    """A network as its names tell it: what stands in blocks, in order, and what stands outside of them."""

    blocks: Mapping[str, tuple[StateDictLayer, ...]]
    """The layers of each block under its name, `module.layer1.0`."""
    outside: tuple[StateDictLayer, ...]


def is_registration_order(keys: Iterable[str]) -> bool:
    """Say whether keys stand in the order in which a network registered its layers.

    PyTorch names what a layer has in the order of `LEAVES`; whoever sorts keys puts `bias` before `weight`.
    """
    keys = list(keys)
    seen: dict[str, int] = {}
    for key in keys:
        name, _, leaf = key.rpartition(".")
        if leaf in LEAVES:
            if LEAVES.index(leaf) < seen.get(name, 0):
                return False
            seen[name] = LEAVES.index(leaf)
    return keys not in (sorted(keys), sorted(keys, key=natural_sort_key))


def layers_of(shapes: Mapping[str, Shape], *, in_order: bool) -> list[StateDictLayer]:
    """Group the keys of a state dict to layers.

    With `in_order` they stay in the order they have (`is_registration_order`); else they are put in the order a person counts in:
    `layer.2` before `layer.10`.
    """
    grouped: dict[str, dict[str, str]] = {}
    for key in shapes:
        name, _, leaf = key.rpartition(".")
        if leaf not in IGNORED:
            grouped.setdefault(name, {})[leaf] = key
    names = list(grouped) if in_order else sorted(grouped, key=natural_sort_key)
    return [_layer(name, grouped[name], shapes) for name in names]


def find_blocks(layers: Sequence[StateDictLayer]) -> NetworkOutline:
    """Find the blocks: the innermost numbered parts that hold two convolutions or more.

    They stand in the order of their numbers; where names differ in more than a number, in that of the layers.
    """
    convs = [layer for layer in layers if layer.kind == "conv"]
    count = Counter(part for layer in convs for part in _parents(layer.name))
    found = {}
    for layer in convs:
        inside = [p for p in _parents(layer.name) if count[p] > 1 and _NUMBERED.fullmatch(p.rpartition(".")[2])]
        if inside:
            found[inside[-1]] = None
    # `1.conv1` beside `1.layer1.0.conv1`: what holds blocks is none itself
    names = [name for name in found if not any(other.startswith(f"{name}.") for other in found)]
    blocks: dict[str, list[StateDictLayer]] = {name: [] for name in _counted(names)}
    outside = []
    for layer in layers:
        parts = (*_parents(layer.name), layer.name)
        home = next((part for part in parts if part in blocks), None)
        (outside if home is None else blocks[home]).append(layer)
    return NetworkOutline({name: tuple(its) for name, its in blocks.items()}, tuple(outside))


def natural_sort_key(name: str) -> list[tuple[int, int, str]]:
    """Return what names are sorted by where numbers in them count as numbers."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _counted(names: Sequence[str]) -> list[str]:
    """Sort names by the numbers in them, part by part; those that begin otherwise stay in the order they have."""
    first: dict[tuple[str, str], int] = {}

    def place(name: str) -> list[tuple[int, list[tuple[int, int, str]]]]:
        parts = name.split(".")
        begins = [(".".join(parts[:at]), re.split(r"\d", part)[0]) for at, part in enumerate(parts)]
        return [
            (first.setdefault(one, len(first)), natural_sort_key(part)) for one, part in zip(begins, parts, strict=True)
        ]

    places = {name: place(name) for name in names}
    return sorted(names, key=places.__getitem__)


def _parents(name: str) -> list[str]:
    """Return everything a layer stands in, the outermost first: `a`, `a.b` of `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _layer(name: str, keys: Mapping[str, str], shapes: Mapping[str, Shape]) -> StateDictLayer:
    weight = shapes.get(keys.get("weight", ""), ())
    mean = shapes.get(keys.get("running_mean", ""), ())
    known = set(keys) <= set(LEAVES)
    if known and len(mean) == 1 and "running_var" in keys and len(weight) <= 1:
        return StateDictLayer(name, "norm", mean, keys)
    if known and not mean and len(weight) in (2, 4):
        return StateDictLayer(name, "conv" if len(weight) == 4 else "linear", weight, keys)
    return StateDictLayer(name, "other", weight, keys)
