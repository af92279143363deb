"""The configuration of a run: frozen, validated dataclasses that survive a round trip through JSON.

Longer than 300 lines because each field is documented beside its default.
"""

import json
import math
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Literal

from resnetlab.architecture_config import ArchitectureConfig
from resnetlab.extension import load_extensions
from resnetlab.recipe_config import Recipe
from resnetlab.serialization import OMIT_DEFAULT, ConfigError, at_least, check, check_type, from_json, one_of

Shortcut = Literal["none", "pad", "project", "project_all"]
Norm = Literal["batch", "none"]
Stem = Literal["imagenet", "cifar", "deep"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "tf32", "bf16"]
Layout = Literal["auto", "channels_last", "contiguous"]
Compile = Literal["auto", "on", "off", "cuda-graph"]
ColorProfiles = Literal["apply", "ignore"]
Interpolation = Literal["bilinear", "bicubic"]
ResizeRule = Literal["resnetlab", "torchvision", "timm"]
Fit = Literal["crop", "pad", "squash"]


@dataclass(frozen=True)
class BlockProperties:
    """The properties of a residual block that a configuration needs."""

    num_convs: int
    """Convolutions in the residual function."""
    expansion: int
    """Output channels of the block over its inner channels."""
    takes_width: bool = False
    """Whether the block has the widths of `ModelConfig.groups` and `width_per_group`."""
    needs_shortcut: bool = False
    """Whether a plain network of such blocks makes no sense: its output would be 0 or random."""
    required_norm: "Norm | None" = None
    """The only normalisation of the block; any if `None`."""


BLOCK_PROPERTIES: dict[str, BlockProperties] = {
    "basic": BlockProperties(num_convs=2, expansion=1),
    "bottleneck": BlockProperties(num_convs=3, expansion=4, takes_width=True),
    "preact": BlockProperties(num_convs=2, expansion=1),
    "preact-bottleneck": BlockProperties(num_convs=3, expansion=4, takes_width=True),
    "no-last-relu": BlockProperties(num_convs=2, expansion=1),
    "bn-after-addition": BlockProperties(num_convs=2, expansion=1),
    "constant-scaling": BlockProperties(num_convs=2, expansion=1, needs_shortcut=True),
    "exclusive-gating": BlockProperties(num_convs=2, expansion=1, needs_shortcut=True),
    "shortcut-gating": BlockProperties(num_convs=2, expansion=1, needs_shortcut=True),
    "dropout-shortcut": BlockProperties(num_convs=2, expansion=1, needs_shortcut=True),
    "rezero": BlockProperties(num_convs=2, expansion=1, needs_shortcut=True),
    "skipinit": BlockProperties(num_convs=2, expansion=1, needs_shortcut=True, required_norm="none"),
    "fixup": BlockProperties(num_convs=2, expansion=1, needs_shortcut=True, required_norm="none"),
    "stochastic-depth": BlockProperties(num_convs=2, expansion=1, needs_shortcut=True),
    "se": BlockProperties(num_convs=2, expansion=1),
    "se-bottleneck": BlockProperties(num_convs=3, expansion=4, takes_width=True),
}
"""The known blocks by name; `resnetlab.register_block` adds one."""


def block_properties(name: str) -> BlockProperties:
    """Return the properties of a block.

    Raises:
        ConfigError: if no block has this name.
    """
    if name not in BLOCK_PROPERTIES:
        load_extensions()
    known = ", ".join(BLOCK_PROPERTIES)
    check(
        name in BLOCK_PROPERTIES,
        f"block {name!r} is unknown; choose one of: {known}; or add it with resnetlab.register_block",
    )
    return BLOCK_PROPERTIES[name]


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of one network; plain and residual networks differ only in `shortcut`.

    `stage_blocks` and `stage_channels` give, for each stage, the number of blocks and the channels *inside* a
    block; a bottleneck block outputs four times as many. Each stage after the first halves height and width.

    Paper: section 3.3, Table 1 (ImageNet) and section 4.2 (CIFAR).

    Raises:
        ConfigError: if a value is outside the range given at its field.
    """

    name: str = "custom"
    """A label for output and file names; it does not affect the network."""
    stage_blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Blocks of each stage, each at least 1."""
    stage_channels: tuple[int, ...] = (64, 128, 256, 512)
    """Channels inside the blocks of each stage, each at least 1; the stem outputs the first (or `stem_channels`)."""
    block: str = "basic"
    """`basic`: two 3x3 convolutions; `bottleneck`: 1x1, 3x3, 1x1 (section 4.1, Figure 5); or a registered block."""
    stem: Stem = "imagenet"
    """`imagenet`: 7x7/2 convolution and 3x3/2 max pool; `cifar`: 3x3 convolution; `deep`: three 3x3 convolutions, the
    first with stride 2, and the max pool (ResNet-C; He, T. et al., 2019, "Bag of Tricks", Figure 2)."""
    shortcut: Shortcut = "project"
    """`none` is the plain network; `pad`, `project`, `project_all` are the paper's options A, B, C."""
    bottleneck_stride: Literal["1x1", "3x3"] = "3x3"
    """The strided convolution of a bottleneck: the first 1x1 (v1, the paper) or the 3x3 (v1.5, torchvision)."""
    norm: Norm = "batch"
    """`batch` normalisation; or `none`, where every convolution has a bias instead."""
    init_scale: float = 1.0
    """Factor on the standard deviation of the He initialisation of every convolution, above 0."""
    zero_init_residual: bool = False
    """Initialise the last BN scale of each block to 0: residual blocks start as the identity. Needs `norm="batch"`."""
    num_classes: int = 1000
    """Outputs of the head, at least 1."""
    in_channels: int = 3
    """Channels of the images, at least 1."""
    stem_channels: int | None = field(default=None, metadata=OMIT_DEFAULT)
    """Output channels of the stem, at least 1; those of the first stage if not given. Wide networks have fewer."""
    groups: int = field(default=1, metadata=OMIT_DEFAULT)
    """Groups of the 3x3 convolution of a bottleneck, at least 1 (ResNeXt; Xie et al., 2017, Figure 3 c)."""
    width_per_group: int = field(default=64, metadata=OMIT_DEFAULT)
    """Channels of a group where `stage_channels` is 64, at least 1: that convolution has stage_channels *
    width_per_group / 64 * groups channels. 128 in one group gives a wide network."""
    average_shortcut: bool = field(default=False, metadata=OMIT_DEFAULT)
    """A projection with a stride averages 2x2 positions first (ResNet-D; He, T. et al., 2019, Figure 2)."""

    def __post_init__(self) -> None:
        self._check_block()
        one_of("shortcut", self.shortcut, Shortcut)
        one_of("stem", self.stem, Stem)
        one_of("bottleneck_stride", self.bottleneck_stride, Literal["1x1", "3x3"])
        one_of("norm", self.norm, Norm)
        check(len(self.stage_blocks) > 0, "stage_blocks is empty; give the number of blocks of each stage")
        check(
            len(self.stage_blocks) == len(self.stage_channels),
            f"stage_blocks has {len(self.stage_blocks)} stages and stage_channels {len(self.stage_channels)}; "
            "give one number for each stage in both",
        )
        for name in ("stage_blocks", "stage_channels"):
            values = getattr(self, name)
            is_whole = all(isinstance(value, Integral) for value in values) and min(values) >= 1
            check(is_whole, f"{name} must be whole numbers of at least 1 each, not {values}")
        at_least(1, self, "num_classes", "in_channels", "stem_channels", "groups", "width_per_group")
        self._check_widths()
        scale = self.init_scale
        check(math.isfinite(scale) and scale > 0, f"init_scale must be above 0, not {scale}")
        check(
            self.norm == "batch" or not self.zero_init_residual,
            'zero_init_residual sets the last BN scale to 0 and needs norm="batch"',
        )

    def _check_block(self) -> None:
        properties = block_properties(self.block)
        check(
            self.shortcut != "none" or not properties.needs_shortcut,
            f'block {self.block} needs a shortcut, such as shortcut="pad"; without one its output would be 0 or random',
        )
        needed = properties.required_norm
        check(needed in (None, self.norm), f'block {self.block} needs norm="{needed}", not "{self.norm}"')

    def _check_widths(self) -> None:
        check(
            (self.groups, self.width_per_group) == (1, 64) or block_properties(self.block).takes_width,
            f"groups and width_per_group need bottlenecks, and this network has blocks of the kind {self.block}",
        )
        narrow = next((inner for inner in self.stage_channels if inner * self.width_per_group < 64), None)
        check(
            narrow is None, f"stage_channels {narrow} * width_per_group {self.width_per_group} / 64 must be at least 1"
        )
        before, after = self.narrowing or (0, 0)
        check(
            self.shortcut != "pad" or self.narrowing is None,
            f'shortcut="pad" (option A) adds channels and drops none, and here they fall from {before} to {after}; use '
            'shortcut="project", or channels that do not fall',
        )
        check(
            not self.average_shortcut or self.shortcut in ("project", "project_all"),
            f'average_shortcut averages in front of projections; use shortcut="project", not "{self.shortcut}"',
        )
        check(
            self.stem != "deep" or self.stem_width % 2 == 0,
            f"the deep stem has half of its {self.stem_width} channels in two layers; give an even number",
        )

    @property
    def stem_width(self) -> int:
        """Output channels of the stem."""
        return self.stage_channels[0] if self.stem_channels is None else self.stem_channels

    @property
    def narrowing(self) -> tuple[int, int] | None:
        """Input and output channels of the first stage that has fewer output channels; `None` if there is none."""
        widths = (self.stem_width, *(inner * self.expansion for inner in self.stage_channels))
        return next(((before, after) for before, after in pairwise(widths) if after < before), None)

    def group_width(self, channels: int) -> int:
        """Channels of the 3x3 convolution of a bottleneck with `channels` inner channels."""
        return channels * self.width_per_group // 64 * self.groups

    @property
    def arm(self) -> str:
        """The arm of the experiment that this network belongs to: `plain` or `residual`."""
        return "plain" if self.shortcut == "none" else "residual"

    @property
    def depth(self) -> int:
        """Layers with weights on the main path: convolutions and the head, as the paper counts them."""
        stem = 3 if self.stem == "deep" else 1
        return block_properties(self.block).num_convs * sum(self.stage_blocks) + stem + 1

    @property
    def expansion(self) -> int:
        """Output channels of a block, as a multiple of its inner channels."""
        return block_properties(self.block).expansion


@dataclass(frozen=True)
class DataConfig:
    """The images of a run, their split, and the treatment of unreadable files."""

    name: str = "digits"
    """A named data set (`data/registry.py`), or the path of a folder of images, a table of labels, parquet
    files or shards."""
    root: str | None = None
    """Folder of the archives of a named data set, downloaded if missing; the user's cache folder if not given."""
    split_seed: int = 0
    """Seed of the stratified split, independent of the seed of the run, at least 0."""
    train_images: int | None = None
    """Size of a stratified subset of the training split, at least 2; all images if not given. A larger subset contains
    the smaller ones."""
    image_size: int | None = None
    """Side of the network's input in pixels, at least 1. If not given: the images' own side if all are squares of one
    size up to 256, else 224."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """Treatment of an unreadable image: `fail` stops the run, `skip` omits the image and lists it in the record."""
    max_megapixels: int = 100
    """Megapixels of one image according to its header, at least 1; a larger image is refused before it is decoded."""
    resident_mib: int = 2048
    """Memory for decoded images (uint8) in MiB, at least 0. Data sets that need more are decoded for each batch."""
    split_folders: str | None = None
    """Folders or parquet files of the splits, `train=Training,test=Testing`; their names decide if not given."""
    image_column: str | None = None
    """Column of parquet files with the encoded images; found by type and name if not given."""
    label_column: str | None = None
    """Column of parquet files with the classes; found by name if not given."""
    color_profiles: ColorProfiles | None = None
    """`apply` converts colours to sRGB by the embedded ICC profiles, as a viewer does; `ignore` leaves the pixels as
    they are. If not given: as in the file of the network that is used, else `apply`."""

    def __post_init__(self) -> None:
        check(self.name != "", "data is empty; give a name such as cifar10, or the path of a folder of images")
        one_of("on_bad_image", self.on_bad_image, Literal["fail", "skip"])
        if self.color_profiles is not None:
            one_of("color_profiles", self.color_profiles, ColorProfiles)
        at_least(0, self, "split_seed", "resident_mib")
        at_least(1, self, "image_size", "max_megapixels")
        at_least(2, self, "train_images")


READING_FIELDS = ("split_folders", "image_column", "label_column", "color_profiles", "on_bad_image")
"""Fields of `DataConfig` that say how one's own data are read; options of every command that takes data."""


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of an image; training, prediction and serving use the same object.

    Images are uint8 of shape (channels, height, width), values 0 to 255; the network receives (x / 255 - mean) / std.
    An image of another size is resized to image_size / crop_ratio as `fit` says, then cropped at its centre.

    Fields that were added later are left out of files while they have their defaults, so that those files stay equal.

    Raises:
        ConfigError: if a value is outside the range given at its field.
    """

    image_size: int
    """Side of the network's input in pixels, at least 1; its height if `image_width` is given."""
    mean: tuple[float, ...]
    """Mean of each channel, for values from 0 to 1."""
    std: tuple[float, ...]
    """Standard deviation of each channel, above 0, for values from 0 to 1."""
    pixel_mean: tuple[float, ...] = ()
    """Mean of each pixel, replacing `mean`: channels x height x width values in row order (section 4.2)."""
    crop_ratio: float = 1.0
    """Side of the centre crop over that of the resized image (the shorter one with fit `crop`), above 0 and at most
    1."""
    color_profiles: ColorProfiles = "apply"
    """Whether colours are converted to sRGB by the embedded profiles before all else. A file that does not say was
    written before this field existed, and applies them as well."""
    interpolation: Interpolation = field(default="bilinear", metadata=OMIT_DEFAULT)
    """Kernel of the resizing: a triangle or a cubic of a = -0.5, widened where the image shrinks (antialiased), as in
    Pillow."""
    resize_rule: ResizeRule = field(default="resnetlab", metadata=OMIT_DEFAULT)
    """Rounding of sizes and offsets, and implementation of the kernel. `torchvision` and `timm` give the pixels of
    these packages on Pillow, from a JPEG at its full size; `resnetlab` is faster and differs from them by a pixel."""
    fit: Fit = field(default="crop", metadata=OMIT_DEFAULT)
    """`crop` covers the input and loses the margins; `pad` shows the whole image between borders; `squash` changes
    its aspect ratio."""
    image_width: int | None = field(default=None, metadata=OMIT_DEFAULT)
    """Width of the network's input in pixels, at least 1; `image_size` if not given."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        return self.image_size, self.image_width or self.image_size

    @property
    def size_text(self) -> str:
        """The input's size in words: `224`, or `128 x 256` (height and width)."""
        return str(self.image_size) if self.image_width is None else f"{self.image_size} x {self.image_width}"

    def __post_init__(self) -> None:
        at_least(1, self, "image_size", "image_width")
        kinds = {"color_profiles": ColorProfiles, "interpolation": Interpolation, "resize_rule": ResizeRule, "fit": Fit}
        for name, kind in kinds.items():
            one_of(name, getattr(self, name), kind)
        check(
            len(self.mean) == len(self.std) > 0,
            f"mean has {len(self.mean)} channels and std {len(self.std)}; give both one value for each channel",
        )
        check(all(s > 0 for s in self.std), f"std must be above 0, not {self.std}")
        height, width = self.input_size
        expected = len(self.mean) * height * width
        check(
            len(self.pixel_mean) in (0, expected),
            f"pixel_mean has {len(self.pixel_mean)} values; {len(self.mean)} channels of {height}x{width} pixels need "
            f"{expected}",
        )
        check(0 < self.crop_ratio <= 1, f"crop_ratio must be above 0 and at most 1, not {self.crop_ratio}")


@dataclass(frozen=True)
class RunConfig:
    """One training run: a network, data, a recipe and a seed. Equal configurations give equal runs."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    """Seed of the initial weights, the sample order and the augmentation, at least 0."""
    device: Device = "auto"
    """`auto` uses a CUDA device if one is available."""
    precision: Precision = "auto"
    """Precision of convolutions and matrix products; weights are fp32. `auto` measures fp32 and bf16 in a long run,
    else takes fp32. `tf32` keeps 10 of the 23 bits of each factor (NVIDIA GPUs from Ampere on); `fp32` never does."""
    layout: Layout = "auto"
    """Memory layout of images and feature maps. `auto` measures in a long run, else channels last."""
    compile: Compile = "auto"
    """`on` compiles the training step with `torch.compile`; `cuda-graph` replays it from a CUDA graph (NVIDIA GPUs).
    `auto` measures in a long run, else off."""
    sync_bn: bool = False
    """With several processes: compute batch statistics over all of them, not over each process's images."""
    grad_accum_steps: int = 1
    """Micro-batches per step and process, at least 1. More need less memory; batch normalisation uses the statistics
    of each micro-batch."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: a third more time, far less memory."""
    layer_stats_steps: int | None = None
    """Steps between samples of gradients and activations, at least 0 (0: no samples). If not given: about 50 samples a
    run, at least 16 steps apart."""
    weights: str | None = None
    """Model file with the initial weights and the preprocessing; random weights from `seed` if not given."""
    threads: int | None = field(default=None, metadata=OMIT_DEFAULT)
    """Threads of PyTorch on a processor, at least 1. If not given, a run of a minute or more measures; else PyTorch
    decides."""
    minutes: float | None = field(default=None, metadata=OMIT_DEFAULT)
    """Minutes that image size and length were fitted to, above 0; a note, since both are stored in their own fields."""
    fit_temperature: bool = field(default=False, metadata=OMIT_DEFAULT)
    """Fit the temperature of the softmax on the validation images at the end; the weights do not change."""
    own_model: str | None = field(default=None, metadata=OMIT_DEFAULT)
    """Class of the module that `fit(config, model=module)` trains, a note; `model` then gives channels and classes
    only."""
    architecture: ArchitectureConfig | None = field(default=None, metadata=OMIT_DEFAULT)
    """A network of `models/architectures`, built with `seed`, in place of `model`."""

    @property
    def depth(self) -> int:
        """Layers with weights of the network: of the architecture if there is one, else of the ResNet."""
        return self.model.depth if self.architecture is None else self.architecture.depth

    def __post_init__(self) -> None:
        check_type("model", self.model, ModelConfig, example="resnetlab.model_config('resnet20')")
        check_type("data", self.data, DataConfig, example="resnetlab.DataConfig('digits')")
        check_type("recipe", self.recipe, Recipe, example="resnetlab.recipe('digits')")
        if self.architecture is not None:
            check_type("architecture", self.architecture, ArchitectureConfig, example="ArchitectureConfig('mlp', 20)")
        for name, kind in (("device", Device), ("precision", Precision), ("layout", Layout), ("compile", Compile)):
            one_of(name, getattr(self, name), kind)
        at_least(0, self, "seed", "layer_stats_steps")
        at_least(1, self, "grad_accum_steps", "threads")
        check(self.minutes is None or 0 < self.minutes < math.inf, f"minutes must be above 0, not {self.minutes}")
        for name in ("frozen_epochs", "freeze_bn"):
            allowed = not getattr(self.recipe, name) or self.weights is not None
            check(allowed, f"{name} needs trained weights, and these are random; name a model file with --from")


def read_config(path: Path) -> RunConfig:
    """Read the `config.json` of a run directory.

    Raises:
        ConfigError: if the file is missing or is not a run's configuration; the message names it.
    """
    try:
        return from_json(RunConfig, json.loads(path.read_text()))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ConfigError(f"{path}: not a run's configuration ({error})") from error
