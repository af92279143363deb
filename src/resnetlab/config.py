"""What a run IS: frozen, validated dataclasses that go to JSON and come back equal. No torch here.

Longer than 300 lines because every field has its meaning beside it; there is little else.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from resnetlab.extension import AUGMENTATIONS, OPTIMIZERS, SCHEDULES
from resnetlab.serialization import ConfigError, check, from_json, one_of

Shortcut = Literal["none", "pad", "project", "project_all"]
Norm = Literal["batch", "none"]
Crop = Literal["pad", "scale", "resized"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
Layout = Literal["auto", "channels_last", "contiguous"]
Compile = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class BlockProperties:
    """The properties of a residual block that a configuration needs."""

    num_convs: int
    """Convolutions in the residual function."""
    expansion: int
    """Output channels of the block over its inner channels."""


BLOCK_PROPERTIES: dict[str, BlockProperties] = {
    "basic": BlockProperties(num_convs=2, expansion=1),
    "bottleneck": BlockProperties(num_convs=3, expansion=4),
}
"""Every known block by name; `resnetlab.register_block` adds to it."""


def block_properties(name: str) -> BlockProperties:
    """Return the properties of a block.

    Raises:
        ConfigError: if no block has this name.
    """
    known = ", ".join(BLOCK_PROPERTIES)
    check(
        name in BLOCK_PROPERTIES,
        f"block {name!r} is unknown; choose one of: {known}; or add it with resnetlab.register_block",
    )
    return BLOCK_PROPERTIES[name]


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
    block: str = "basic"
    """`basic`: two 3x3 convolutions; `bottleneck`: 1x1, 3x3, 1x1 (section 4.1, Figure 5); or a registered block."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """`imagenet`: 7x7/2 convolution and 3x3/2 max pool; `cifar`: 3x3 convolution."""
    shortcut: Shortcut = "project"
    """`none` is the plain network; `pad`, `project`, `project_all` are the paper's options A, B, C."""
    bottleneck_stride: Literal["1x1", "3x3"] = "3x3"
    """Which convolution of a bottleneck strides: the first 1x1 (v1, the paper) or the 3x3 (v1.5, torchvision)."""
    norm: Norm = "batch"
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
        block_properties(self.block)
        one_of("shortcut", self.shortcut, Shortcut)
        one_of("stem", self.stem, Literal["imagenet", "cifar"])
        one_of("bottleneck_stride", self.bottleneck_stride, Literal["1x1", "3x3"])
        one_of("norm", self.norm, Norm)
        check(len(self.stage_blocks) > 0, "stage_blocks is empty; give the number of blocks of each stage")
        check(
            len(self.stage_blocks) == len(self.stage_channels),
            f"stage_blocks has {len(self.stage_blocks)} stages and stage_channels {len(self.stage_channels)}; "
            "give one number for each stage in both",
        )
        for name in ("stage_blocks", "stage_channels"):
            check(min(getattr(self, name)) >= 1, f"{name} must be at least 1 each, not {getattr(self, name)}")
        _at_least(1, self, "num_classes", "in_channels")
        scale = self.init_scale
        check(math.isfinite(scale) and scale > 0, f"init_scale must be above 0, not {scale}")
        check(
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
        return block_properties(self.block).num_convs * sum(self.stage_blocks) + 2

    @property
    def expansion(self) -> int:
        """Channels a block puts out, as a multiple of those inside it."""
        return block_properties(self.block).expansion


@dataclass(frozen=True)
class DataConfig:
    """Which images, how they are split, and what happens to those that cannot be read."""

    name: str = "digits"
    """A data set with a name (`data/registry.py`), or the path of a folder of images or of parquet files."""
    root: str | None = None
    """Where the archives of a named data set lie or are downloaded to; the user's cache folder if not given."""
    split_seed: int = 0
    """Seed of the stratified split; it stays the same when the seed of the run changes. At least 0."""
    train_images: int | None = None
    """Train on so many images of the training split alone, each class in its proportion; at least 2, all if not given.
    A larger subset holds the smaller ones."""
    image_size: int | None = None
    """Side in pixels of what the network sees, at least 1; the images' own where all are squares of one size up to
    256, else 224."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """Whether an image that cannot be read stops the run or is left out and listed in the record."""
    max_megapixels: int = 100
    """Images that claim more are refused before memory is taken, at least 1."""
    resident_mib: int = 2048
    """Images that need more memory than this, as uint8, are decoded anew for each batch, at least 0."""

    def __post_init__(self) -> None:
        check(self.name != "", "data is empty; give a name such as cifar10, or the path of a folder of images")
        one_of("on_bad_image", self.on_bad_image, Literal["fail", "skip"])
        _at_least(0, self, "split_seed", "resident_mib")
        _at_least(1, self, "image_size", "max_megapixels")
        _at_least(2, self, "train_images")


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network sees it; one object for training, prediction and serving.

    Images are uint8 of shape (channels, height, width), values 0 to 255; the network sees (x / 255 - mean) / std.
    An image of another size is resized so that its shorter side is image_size / crop_ratio, and its centre is cut out.
    """

    image_size: int
    """Side in pixels, at least 1."""
    mean: tuple[float, ...]
    """One value for each channel, in units of full scale."""
    std: tuple[float, ...]
    """One value above 0 for each channel, in units of full scale."""
    pixel_mean: tuple[float, ...] = ()
    """A mean for each pixel in place of `mean`: channels x image_size x image_size values, row by row (section 4.2)."""
    crop_ratio: float = 1.0
    """Side of the centre that is cut out over the shorter side it is cut from, above 0, at most 1."""

    def __post_init__(self) -> None:
        _at_least(1, self, "image_size")
        check(
            len(self.mean) == len(self.std) > 0,
            f"mean has {len(self.mean)} channels and std {len(self.std)}; give both one value for each channel",
        )
        check(all(s > 0 for s in self.std), f"std must be above 0, not {self.std}")
        expected = len(self.mean) * self.image_size**2
        check(
            len(self.pixel_mean) in (0, expected),
            f"pixel_mean has {len(self.pixel_mean)} values; {len(self.mean)} channels of {self.image_size}x"
            f"{self.image_size} pixels need {expected}",
        )
        check(0 < self.crop_ratio <= 1, f"crop_ratio must be above 0 and at most 1, not {self.crop_ratio}")


@dataclass(frozen=True)
class Recipe:
    """How the network is trained: length, optimiser, schedule, augmentation, and which weights are kept.

    Raises:
        ConfigError: for values outside the ranges given at the fields.
    """

    name: str = "custom"
    """What people call it; a label, not a switch."""
    epochs: int = 5
    """Passes over the training split, at least 1; `steps`, where given, decides instead."""
    steps: int | None = None
    """Length of the run in steps, at least 1 (sections 3.4 and 4.2 count iterations)."""
    batch_size: int = 16
    """Images in a step, at least 2 (batch normalisation needs a variance)."""
    lr: float = 0.01
    """Highest learning rate, above 0."""
    momentum: float = 0.9
    """v = momentum * v + gradient; from 0 to below 1 (authors' release notes)."""
    weight_decay: float = 1e-4
    """L2 penalty on every parameter, at least 0 (section 3.4)."""
    optimizer: str = "sgd"
    """`sgd`, or a name of `register_optimizer`."""
    schedule: str = "step"
    """`constant`; `step` divides by 10 at `milestones`; `plateau` divides by 10 after `patience` epochs without a lower
    validation error (section 3.4); `linear` and `cosine` fall to 0 at the end; or a name of `register_schedule`."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Where `step` divides, as fractions of the run, rising, inside (0, 1); the paper's 32k and 48k of 64k."""
    patience: int = 5
    """Epochs without a lower validation error before `plateau` divides, at least 1."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0, at least 0."""
    warmup_epochs: float = 0.0
    """The same in epochs, at least 0; `warmup_steps`, where above 0, decides instead."""
    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes, from 0 to below 1 (Szegedy et al., 2016)."""
    decay_norms: bool = True
    """Whether weight decay also pulls at biases and at batch normalisation's scale and shift (the paper: at all)."""
    initial_lr: float | None = None
    """Learning rate until the running training error falls below `initial_lr_until_pct` (4.2, 110 layers: 0.01)."""
    initial_lr_until_pct: float = 80.0
    """Training error, in %, above 0 and at most 100."""
    crop: Crop = "pad"
    """`pad`: `crop_padding`; `scale`: shorter side random in `scale_range`, then a crop at random (section 3.4);
    `resized`: a box of 8 to 100 % of the area, sides 3:4 to 4:3, resized (Inception, torchvision)."""
    crop_padding: int = 0
    """Zero pixels added on each side before a random crop of the original size, at least 0 (section 4.2: 4)."""
    scale_range: tuple[int, int] = (256, 480)
    """Shorter side in pixels for a crop of 224, and in proportion for others; rising, at least 224 (section 3.4)."""
    train_sizes: tuple[tuple[float, int], ...] = ()
    """Sides in pixels at which training images are shown, each from a fraction of the run on, the first from 0 on; the
    side they are judged at if empty. Not with `pad`."""
    flip: bool = False
    """Mirror half of the training images left to right (sections 3.4 and 4.2)."""
    jitter: float = 0.0
    """Brightness, contrast and saturation vary by a factor within 1 ± jitter, from 0 to 1."""
    lighting: float = 0.0
    """Standard deviation of the PCA colour augmentation, at least 0 (section 3.4 and its reference [21]: 0.1)."""
    augmentations: tuple[str, ...] = ()
    """Names of `register_augmentation`, applied in this order to the normalised images."""
    normalise: Literal["channel", "pixel"] = "channel"
    """`channel`: mean and deviation of each channel; `pixel`: each pixel's mean is subtracted, no division (4.2)."""
    frozen_epochs: int = 0
    """Epochs at the start in which the head alone learns and all else stays as it was, at least 0."""
    layer_decay: float = 1.0
    """Factor on `lr` for each group back from the head (last stage, …, first stage, stem), above 0 and at most 1."""
    freeze_bn: bool = False
    """Leave batch normalisation as it was: statistics, scale and shift."""
    keep: Literal["last", "best"] = "last"
    """Which weights are kept and tested: those of the last epoch, or of the lowest validation error."""

    def __post_init__(self) -> None:
        SCHEDULES.check(self.schedule)
        OPTIMIZERS.check(self.optimizer)
        for augmentation in self.augmentations:
            AUGMENTATIONS.check(augmentation)
        one_of("keep", self.keep, Literal["last", "best"])
        one_of("crop", self.crop, Crop)
        one_of("normalise", self.normalise, Literal["channel", "pixel"])
        _at_least(0, self, "weight_decay", "lighting", "warmup_steps", "warmup_epochs", "crop_padding", "frozen_epochs")
        _at_least(1, self, "epochs", "steps", "patience")
        _at_least(2, self, "batch_size")
        check(math.isfinite(self.lr) and self.lr > 0, f"lr must be above 0, not {self.lr}")
        check(0 <= self.momentum < 1, f"momentum must be from 0 to below 1, not {self.momentum}")
        check(0 < self.layer_decay <= 1, f"layer_decay must be above 0 and at most 1, not {self.layer_decay}")
        check(self.initial_lr is None or self.initial_lr > 0, f"initial_lr must be above 0, not {self.initial_lr}")
        until = self.initial_lr_until_pct
        check(0 < until <= 100, f"initial_lr_until_pct must be above 0 and at most 100, not {until}")
        check(
            len(self.scale_range) == 2 and 224 <= self.scale_range[0] <= self.scale_range[1],
            f"scale_range must be two rising sides of at least 224 pixels, not {self.scale_range}",
        )
        check(0 <= self.label_smoothing < 1, f"label_smoothing must be from 0 to below 1, not {self.label_smoothing}")
        starts = [start for start, _ in self.train_sizes]
        rising = starts == sorted(set(starts)) and all(0 <= start < 1 for start in starts)
        check(
            not starts or (starts[0] == 0 and rising and all(side >= 8 for _, side in self.train_sizes)),
            f"train_sizes must be rising fractions of the run from 0 on, each with a side of 8 or more, not "
            f"{self.train_sizes}",
        )
        check(
            not starts or self.crop != "pad",
            "train_sizes are for crop scale or resized; pad shows images at the size they have",
        )
        check(0 <= self.jitter <= 1, f"jitter must be from 0 to 1, not {self.jitter}")
        check(
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
    precision: Precision = "auto"
    """Of convolutions and products; weights stay fp32. `auto` measures where the run is long enough, else fp32."""
    layout: Layout = "auto"
    """Of images in memory: channels last or first. `auto` measures likewise, else channels last."""
    compile: Compile = "auto"
    """Whether `torch.compile` makes the step. `auto` measures likewise, else off."""
    sync_bn: bool = False
    """With several processes: normalise over the whole batch, as one process does, and not over each one's part."""
    grad_accum_steps: int = 1
    """Parts that each process takes its images of a step in, one after the other, at least 1: less memory; batch
    normalisation sees a part at a time."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: a third more time, far less memory."""
    layer_stats_steps: int | None = None
    """Steps between samples of gradients and activations, at least 0: 0 for none; about 50 samples a run, 16 steps
    apart or more, if not given."""
    weights: str | None = None
    """A model file whose weights the network starts from, and whose preprocessing; drawn from `seed` if not given."""

    def __post_init__(self) -> None:
        for name, kind in (("device", Device), ("precision", Precision), ("layout", Layout), ("compile", Compile)):
            one_of(name, getattr(self, name), kind)
        _at_least(0, self, "seed", "layer_stats_steps")
        _at_least(1, self, "grad_accum_steps")
        for name in ("frozen_epochs", "freeze_bn"):
            kept = not getattr(self.recipe, name) or self.weights is not None
            check(kept, f"{name} keeps what was learnt before, and these weights are random; give a file (--from)")


def _at_least(least: int, config: object, *names: str) -> None:
    """Raise `ConfigError` for a field below `least`; one that is not given is left alone."""
    for name in names:
        value = getattr(config, name)
        check(value is None or value >= least, f"{name} must be at least {least}, not {value}")


def read_config(path: Path) -> RunConfig:
    """Read the `config.json` of a run directory.

    Raises:
        ConfigError: where the file is missing or is not a run's configuration; the message names it.
    """
    try:
        return from_json(RunConfig, json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not a run's configuration ({error})") from error
