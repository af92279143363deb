"""Group the keys and shapes of a state dict into layers, and the layers into blocks."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Shape = tuple[int, ...]
Kind = Literal["conv", "norm", "linear", "other"]

LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
"""The last components of keys, in the order in which PyTorch registers them."""
IGNORED_LEAVES = ("total_ops", "total_params", "n_averaged")
"""Counters that profilers (thop) and weight averaging leave in a state dict; no prediction uses them."""
_NUMBERED = re.compile(r"(?!conv|stem|bn|norm)[a-z_]*\d+", re.IGNORECASE)
"""A block's own name, such as `0` or `unit1`; a `conv1` of several convolutions is a stem."""


@dataclass(frozen=True)
class StateDictLayer:
    """A layer: the tensors of a state dict that share a prefix."""

    name: str
    """The prefix, such as `module.layer1.0.conv1`."""
    kind: Kind
    """`norm` has running statistics; `other` is neither a 2-d convolution, nor such a norm, nor linear."""
    shape: Shape
    """The shape of the weight; of a norm, that of the running mean."""
    keys: Mapping[str, str]
    """The last component of each key → the key."""

    @property
    def out_channels(self) -> int:
        """Output channels."""
        return self.shape[0]

    @property
    def kernel(self) -> int:
        """The larger side of a convolution's kernel."""
        return max(self.shape[2:])


@dataclass(frozen=True)
class NetworkOutline:
    """The layers of a network, inside and outside of its blocks."""

    blocks: Mapping[str, tuple[StateDictLayer, ...]]
    """The name of each block, such as `module.layer1.0`, → its layers; blocks are in order."""
    outside: tuple[StateDictLayer, ...]


def is_registration_order(keys: Iterable[str]) -> bool:
    """Return whether keys are in the order in which a network registered its layers.

    PyTorch registers the tensors of a layer in the order of `LEAVES`; sorted keys have `bias` before `weight`.
    """
    keys = list(keys)
    positions: dict[str, int] = {}
    for key in keys:
        name, _, leaf = key.rpartition(".")
        if leaf in LEAVES:
            if LEAVES.index(leaf) < positions.get(name, 0):
                return False
            positions[name] = LEAVES.index(leaf)
    return keys not in (sorted(keys), sorted(keys, key=natural_sort_key))


def layers_of(shapes: Mapping[str, Shape], *, in_order: bool) -> list[StateDictLayer]:
    """Group the keys of a state dict into layers.

    With `in_order`, layers keep the order of the keys (`is_registration_order`). Otherwise they are in natural order:
    `layer.2` before `layer.10`.
    """
    grouped: dict[str, dict[str, str]] = {}
    for key in shapes:
        name, _, leaf = key.rpartition(".")
        if leaf not in IGNORED_LEAVES:
            grouped.setdefault(name, {})[leaf] = key
    names = list(grouped) if in_order else sorted(grouped, key=natural_sort_key)
    return [_make_layer(name, grouped[name], shapes) for name in names]


def find_blocks(layers: Sequence[StateDictLayer]) -> NetworkOutline:
    """Find the blocks: the innermost numbered modules that contain at least two convolutions.

    Blocks are in the order of their numbers; names that differ in more than a number are in the order of the layers.
    """
    convs = [layer for layer in layers if layer.kind == "conv"]
    num_convs = Counter(module for layer in convs for module in _parents(layer.name))
    candidates = {}
    for layer in convs:
        inside = [p for p in _parents(layer.name) if num_convs[p] > 1 and _NUMBERED.fullmatch(p.rpartition(".")[2])]
        if inside:
            candidates[inside[-1]] = None
    # `1.conv1` beside `1.layer1.0.conv1`: a module that contains blocks is no block itself
    names = [name for name in candidates if not any(other.startswith(f"{name}.") for other in candidates)]
    blocks: dict[str, list[StateDictLayer]] = {name: [] for name in _sort_by_numbers(names)}
    outside = []
    for layer in layers:
        modules = (*_parents(layer.name), layer.name)
        block = next((module for module in modules if module in blocks), None)
        (outside if block is None else blocks[block]).append(layer)
    return NetworkOutline({name: tuple(inner) for name, inner in blocks.items()}, tuple(outside))


def natural_sort_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that compares the numbers in names as numbers."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _sort_by_numbers(names: Sequence[str]) -> list[str]:
    """Sort names by the numbers in them, component by component; components with other letters stay in order."""
    first: dict[tuple[str, str], int] = {}

    def sort_key(name: str) -> list[tuple[int, list[tuple[int, int, str]]]]:
        parts = name.split(".")
        prefixes = [(".".join(parts[:at]), re.split(r"\d", part)[0]) for at, part in enumerate(parts)]
        return [
            (first.setdefault(prefix, len(first)), natural_sort_key(part))
            for prefix, part in zip(prefixes, parts, strict=True)
        ]

    keys = {name: sort_key(name) for name in names}
    return sorted(names, key=keys.__getitem__)


def _parents(name: str) -> list[str]:
    """Return the modules that contain a layer, the outermost first: `a` and `a.b` for `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _make_layer(name: str, keys: Mapping[str, str], shapes: Mapping[str, Shape]) -> StateDictLayer:
    weight = shapes.get(keys.get("weight", ""), ())
    mean = shapes.get(keys.get("running_mean", ""), ())
    known = set(keys) <= set(LEAVES)
    if known and len(mean) == 1 and "running_var" in keys and len(weight) <= 1:
        return StateDictLayer(name=name, kind="norm", shape=mean, keys=keys)
    if known and not mean and len(weight) in (2, 4):
        return StateDictLayer(name=name, kind="conv" if len(weight) == 4 else "linear", shape=weight, keys=keys)
    return StateDictLayer(name=name, kind="other", shape=weight, keys=keys)
