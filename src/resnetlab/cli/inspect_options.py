"""The options of `resnetlab inspect`, in the groups of its `--help`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from resnetlab.cli.data_options import Reading, ReadingOptions
from resnetlab.config import ConfigError

if TYPE_CHECKING:
    from resnetlab.models.importing.assumptions import AssumptionOverrides


@dataclass(frozen=True)
class CardOptions:
    """Classes and preprocessing, which weights do not contain and the model file of --save needs."""

    classes: tuple[str, ...] | None = None
    """Class names in order; or a file of them (text with one a line, JSON, YAML, CSV), or a data set such as
    cifar10."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, subtracted from pixels from 0 to 1, or from 0 to 255 if a value is above 1."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, on the same scale. With --pixel-mean, the default is 1 for pixels from 0 to
    1, or for pixels from 0 to 255 if the weights were trained on such."""
    pixel_mean: Path | None = None
    """In place of --mean: an .npy file with the mean of each pixel, (channels, height, width) or channels last."""
    image_size: tuple[int, ...] | None = None
    """Side of the network's input in pixels, or its height and width; default 224 after a 7x7 stem and 32 after a 3x3
    stem."""
    crop_ratio: float | None = None
    """Side of the centre crop over the shorter side of the image; default 0.875 after a 7x7 stem, else 1."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """Kernel that resizes images, antialiased; default bilinear."""
    resize_rule: Literal["resnetlab", "torchvision", "timm"] | None = None
    """Rounding of sizes and offsets: that of resnetlab, or exactly that of another package. The default for keys of
    torchvision after a 7x7 stem is torchvision, else resnetlab."""
    fit: Literal["crop", "pad", "squash"] | None = None
    """Images of another aspect ratio: crop the margins off (default), pad them with borders, or squash them."""


@dataclass(frozen=True)
class ArchitectureOptions:
    """Properties that weights do not show; each is an assumption if not given."""

    shortcut: Literal["none", "pad"] | None = None
    """For shortcuts without weights: none (a plain network), or pad (option A)."""
    zero_channels: Literal["append", "split"] | None = None
    """Position of option A's zero channels: behind the others, or half in front and half behind."""
    bottleneck_stride: Literal["1x1", "3x3"] | None = None
    """Convolution of a bottleneck that has the stride: the first 1x1 (v1), or the 3x3 (v1.5)."""
    channel_order: Literal["rgb", "bgr"] | None = None
    """Order in which the network reads the channels of colour images; the conversion turns bgr into rgb."""
    bn_epsilon: float | None = None
    """Epsilon of batch normalisation, such as 1e-3 of Keras; default 1e-5."""

    def overrides(self) -> "AssumptionOverrides":
        """Return the values in place of assumptions."""
        from resnetlab.models.importing.assumptions import AssumptionOverrides

        return AssumptionOverrides(**asdict(self))


@dataclass(frozen=True)
class Options:
    """Print which network a file holds: a model file or export of resnetlab, safetensors, or a torch.save file.

    The architecture follows from keys and shapes; what they do not determine is listed as an assumption. Nothing in
    the file is executed. With --save, published weights become a model file that computes the same; this needs the
    classes and the preprocessing. For a model file, --save writes a copy with other class names.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """A file of weights (safetensors or torch.save, whatever its suffix: .pth, .pt, .th, .tar, .ckpt, .bin), an export
    (.onnx, .xml, .pt2), or a run directory."""
    save: Path | None = None
    """The model file to write; an existing file is refused."""
    data: str | None = None
    """Images of the kind that the network was trained on, without labels: a folder, parquet files, shards, or the name
    of a data set. Each assumption is tried on them; --save takes what they show clearly."""
    reading: Reading = ReadingOptions()
    card: Annotated[CardOptions, tyro.conf.OmitArgPrefixes] = CardOptions()
    architecture: Annotated[ArchitectureOptions, tyro.conf.OmitArgPrefixes] = ArchitectureOptions()
    tensors: str | None = None
    """Key of the network to read, of several in one file: such as ema, or state_dict.teacher."""
    json: bool = False
    """Print one JSON object."""


def check_image_size(given: Sequence[int]) -> tuple[int, int]:
    """Return height and width from one side or from both.

    Raises:
        ConfigError: for another number of sides, and for sides below 1.
    """
    if len(given) not in (1, 2) or min(given) < 1:
        sides = " ".join(map(str, given))
        raise ConfigError(f"--image-size must be a side in pixels, or height and width, of 1 or more, not {sides}")
    return given[0], given[-1]


def check_tried_values(card: CardOptions) -> None:
    """Raise for values of the card that the check on images cannot try.

    Raises:
        ConfigError: for a mean without a deviation or the reverse, and for another size than a square.
    """
    given = {"--mean": card.mean, "--std": card.std}
    missing = [name for name, values in given.items() if values is None]
    if len(missing) == 1 and card.pixel_mean is None:
        other = "--std" if missing == ["--mean"] else "--mean"
        raise ConfigError(f"{other} requires {missing[0]}; add it, or leave {other} out")
    if card.image_size is None or card.pixel_mean is not None:
        return
    height, width = check_image_size(card.image_size)
    if height != width:
        raise ConfigError(
            f"--image-size {height} {width}: --data tries square inputs; give one side, or leave --data out"
        )
