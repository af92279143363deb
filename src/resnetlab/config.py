"""What a run IS: frozen, validated dataclasses that go to JSON and come back equal. No torch here."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

Shortcut = Literal["none", "pad", "project", "project_all"]
Block = Literal["basic", "bottleneck"]
Schedule = Literal["constant", "step", "linear", "cosine"]
Device = Literal["auto", "cpu", "cuda"]

DATA_NAMES = ("digits",)
"""Data sets that have a name; `data/sources.py` opens each of them."""

T = TypeVar("T")


class ConfigError(ValueError):
    """A value the user gave that cannot work; the message names it and what would work."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _one_of(name: str, value: object, kind: Any) -> None:
    choices = typing.get_args(kind)
    _check(value in choices, f"{name} {value!r} is unknown; choose one of: {', '.join(choices)}")


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of one network; plain and residual differ in `shortcut` alone.

    `stage_blocks` and `stage_channels` give, for each stage, the number of blocks and the channels *inside* a
    block; a bottleneck block puts out four times as many. Each stage but the first halves the map.

    Paper: section 3.3, Table 1 (ImageNet) and section 4.2 (CIFAR).

    Raises:
        ConfigError: for values outside the ranges given at the fields.
    """

    name: str = "custom"
    """What people call it; a label, not a switch."""
    stage_blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Blocks of each stage, each at least 1."""
    stage_channels: tuple[int, ...] = (64, 128, 256, 512)
    """Channels inside the blocks of each stage, each at least 1; the stem puts out the first."""
    block: Block = "basic"
    """`basic`: two 3x3 convolutions; `bottleneck`: 1x1, 3x3, 1x1 (section 4.1, Figure 5)."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """`imagenet`: 7x7/2 convolution and 3x3/2 max pool; `cifar`: 3x3 convolution."""
    shortcut: Shortcut = "project"
    """`none` is the plain network; `pad`, `project`, `project_all` are the paper's options A, B, C."""
    bottleneck_stride: Literal["1x1", "3x3"] = "3x3"
    """Which convolution of a bottleneck strides: the first 1x1 (v1, the paper) or the 3x3 (v1.5, torchvision)."""
    norm: Literal["batch", "none"] = "batch"
    """`none` gives every convolution a bias instead, as networks before batch normalisation had."""
    init_scale: float = 1.0
    """Factor on the standard deviation of the He initialisation of every convolution, above 0."""
    zero_init_residual: bool = False
    """Start each block's last BN scale at 0, so that a residual block starts as the identity. Needs `norm="batch"`."""
    num_classes: int = 1000
    """Outputs of the head, at least 1."""
    in_channels: int = 3
    """Channels of the images, at least 1."""

    def __post_init__(self) -> None:
        _one_of("block", self.block, Block)
        _one_of("shortcut", self.shortcut, Shortcut)
        _one_of("stem", self.stem, Literal["imagenet", "cifar"])
        _one_of("bottleneck_stride", self.bottleneck_stride, Literal["1x1", "3x3"])
        _one_of("norm", self.norm, Literal["batch", "none"])
        _check(len(self.stage_blocks) > 0, "stage_blocks is empty; give the number of blocks of each stage")
        _check(
            len(self.stage_blocks) == len(self.stage_channels),
            f"stage_blocks has {len(self.stage_blocks)} stages and stage_channels {len(self.stage_channels)}; "
            "give one number for each stage in both",
        )
        for name in ("stage_blocks", "stage_channels"):
            _check(min(getattr(self, name)) >= 1, f"{name} must be at least 1 each, not {getattr(self, name)}")
        _check(self.num_classes >= 1, f"num_classes must be at least 1, not {self.num_classes}")
        _check(self.in_channels >= 1, f"in_channels must be at least 1, not {self.in_channels}")
        _check(
            math.isfinite(self.init_scale) and self.init_scale > 0,
            f"init_scale must be above 0, not {self.init_scale}",
        )
        _check(
            self.norm == "batch" or not self.zero_init_residual,
            'zero_init_residual sets the last BN scale to 0 and needs norm="batch"',
        )

    @property
    def arm(self) -> str:
        """The side of the experiment this network stands on: `plain` or `residual`."""
        return "plain" if self.shortcut == "none" else "residual"

    @property
    def depth(self) -> int:
        """Layers with weights along the main path: convolutions and the head, as the paper counts."""
        per_block = 2 if self.block == "basic" else 3
        return per_block * sum(self.stage_blocks) + 2

    @property
    def expansion(self) -> int:
        """Channels a block puts out, as a multiple of those inside it."""
        return 1 if self.block == "basic" else 4


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are split."""

    name: str = "digits"
    """Name of a known data set."""
    split_seed: int = 0
    """Seed of the stratified split; it stays the same when the seed of the run changes. At least 0."""

    def __post_init__(self) -> None:
        _check(self.name in DATA_NAMES, f"data {self.name!r} is unknown; known: {', '.join(DATA_NAMES)}")
        _check(self.split_seed >= 0, f"split_seed must be at least 0, not {self.split_seed}")


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network sees it; one object for training, prediction and serving.

    Images are uint8 of shape (channels, height, width), values 0 to 255; the network sees (x / 255 - mean) / std.
    """

    image_size: int
    """Side in pixels, at least 1."""
    mean: tuple[float, ...]
    """One value for each channel, in units of full scale."""
    std: tuple[float, ...]
    """One value above 0 for each channel, in units of full scale."""

    def __post_init__(self) -> None:
        _check(self.image_size >= 1, f"image_size must be at least 1, not {self.image_size}")
        _check(
            len(self.mean) == len(self.std) > 0,
            f"mean has {len(self.mean)} channels and std {len(self.std)}; give both one value for each channel",
        )
        _check(all(s > 0 for s in self.std), f"std must be above 0, not {self.std}")


@dataclass(frozen=True)
class Recipe:
    """How the network is trained: length, optimiser, schedule, augmentation, and which weights are kept.

    Raises:
        ConfigError: for values outside the ranges given at the fields.
    """

    name: str = "custom"
    """What people call it; a label, not a switch."""
    epochs: int = 5
    """Passes over the training split, at least 1."""
    batch_size: int = 16
    """Images in a step, at least 2 (batch normalisation needs a variance)."""
    lr: float = 0.01
    """Highest learning rate, above 0."""
    momentum: float = 0.9
    """v = momentum * v + gradient; from 0 to below 1 (authors' release notes)."""
    weight_decay: float = 1e-4
    """L2 penalty on every parameter, at least 0 (section 3.4)."""
    schedule: Schedule = "step"
    """`step` divides by 10 at `milestones`; `linear` and `cosine` fall to 0 at the end."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Where `step` divides, as fractions of the run, rising, inside (0, 1); the paper's 32k and 48k of 64k."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0, at least 0."""
    crop_padding: int = 0
    """Zero pixels added on each side before a random crop of the original size, at least 0 (section 4.2: 4)."""
    flip: bool = False
    """Mirror half of the training images left to right (section 4.2)."""
    keep: Literal["last", "best"] = "last"
    """Which weights are kept and tested: those of the last epoch, or of the lowest validation error."""

    def __post_init__(self) -> None:
        _one_of("schedule", self.schedule, Schedule)
        _one_of("keep", self.keep, Literal["last", "best"])
        _check(self.epochs >= 1, f"epochs must be at least 1, not {self.epochs}")
        _check(self.batch_size >= 2, f"batch_size must be at least 2, not {self.batch_size}")
        _check(math.isfinite(self.lr) and self.lr > 0, f"lr must be above 0, not {self.lr}")
        _check(0 <= self.momentum < 1, f"momentum must be from 0 to below 1, not {self.momentum}")
        _check(self.weight_decay >= 0, f"weight_decay must be at least 0, not {self.weight_decay}")
        _check(self.warmup_steps >= 0, f"warmup_steps must be at least 0, not {self.warmup_steps}")
        _check(self.crop_padding >= 0, f"crop_padding must be at least 0, not {self.crop_padding}")
        _check(
            all(0 < m < 1 for m in self.milestones) and list(self.milestones) == sorted(set(self.milestones)),
            f"milestones must be rising fractions of the run between 0 and 1, not {self.milestones}",
        )


@dataclass(frozen=True)
class RunConfig:
    """One training: a network, data, a recipe and a seed. Equal configurations give equal runs."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    """Seed of the initial weights, the sample order and the augmentation, at least 0."""
    device: Device = "auto"
    """`auto` takes a CUDA device where there is one."""

    def __post_init__(self) -> None:
        _one_of("device", self.device, Device)
        _check(self.seed >= 0, f"seed must be at least 0, not {self.seed}")


def to_json(config: Any) -> dict[str, Any]:
    """Turn a configuration into plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_json(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a configuration of class `kind` from JSON values; fields left out take their defaults.

    Raises:
        ConfigError: for an unknown field, a value of the wrong type, or one the class refuses.
    """
    _check(isinstance(values, Mapping), f"{kind.__name__} must be an object, not {values!r}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    _check(
        not unknown,
        f"{kind.__name__} has no field {', '.join(map(repr, unknown))}; it has: {', '.join(hints)}",
    )
    return kind(**{name: _parse(f"{kind.__name__}.{name}", hints[name], value) for name, value in values.items()})


def read_config(path: Path) -> RunConfig:
    """Read the `config.json` of a run directory.

    Raises:
        ConfigError: where the file is missing or is not a run's configuration; the message names it.
    """
    try:
        return from_json(RunConfig, json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not a run's configuration ({error})") from error


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Name every field in which two configurations of one class differ, as `recipe.epochs: 7 -> 3`."""
    found = []
    for item in dataclasses.fields(old):
        before, after = getattr(old, item.name), getattr(new, item.name)
        if dataclasses.is_dataclass(before):
            found += differences(before, after, f"{prefix}{item.name}.")
        elif before != after:
            found.append(f"{prefix}{item.name}: {before} -> {after}")
    return found


def _parse(name: str, hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast("type", hint), value)
    origin = typing.get_origin(hint)
    if origin is dict:
        _check(isinstance(value, Mapping), f"{name} must be an object, not {value!r}")
        return dict(value)
    if origin is tuple:
        _check(isinstance(value, list | tuple), f"{name} must be a list, not {value!r}")
        return tuple(_parse(name, typing.get_args(hint)[0], item) for item in value)
    if origin in (Literal, types.UnionType):
        return value  # the class itself checks what it allows
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wrong = not isinstance(value, hint) or (hint is int and isinstance(value, bool))
    _check(not wrong, f"{name} must be {hint.__name__}, not {value!r}")
    return value
