"""The options of `resnetlab inspect`, in the groups of its `--help`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from resnetlab.cli.data_options import Reading, ReadingOptions

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
