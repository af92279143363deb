"""`resnetlab export`: a network in another format, verified against its source."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnetlab.cli.data_options import READING_OPTIONS, Reading, ReadingOptions
from resnetlab.cli.output_paths import check_parent
from resnetlab.cli.terminal import print_json
from resnetlab.cli.unused_options import refuse_unused
from resnetlab.config import ConfigError, DataConfig
from resnetlab.system.count_text import count_text

if TYPE_CHECKING:
    import numpy as np

    from resnetlab.data.images.scan import Progress
    from resnetlab.export.export import Quantizer
    from resnetlab.inference.formats.exported_file import ExportedFile, Format

MAX_IMAGES = 256
"""Maximum number of the user's images for the comparison."""


@dataclass(frozen=True)
class Options:
    """Export a network to ONNX, OpenVINO or torch.export, as a file that takes pixels and returns logits.

    Batch normalisation is folded, normalisation is in the graph, classes and preprocessing are in the metadata. The
    file is opened in its runtime, and its logits are compared with the network's. If they differ by more than rounding
    errors, nothing is written and the exit status is 1.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """A model file, a run directory, or a name from `resnetlab weights`."""
    format: Literal["onnx", "openvino", "torch-export"] | None = None
    """If not given, the suffix of --out determines the format (.onnx, .xml, .pt2); without --out it is onnx."""
    out: Path | None = None
    """The file to write, beside the model if not given; an existing file is replaced. OpenVINO also writes a .bin."""
    images: tuple[str, ...] | None = None
    """Images for the comparison, besides random ones: files, folders, quoted globs; crops of two photographs if not
    given."""
    int8: bool = False
    """Compute in 8-bit integers: smaller, and faster on many processors. Requires --calibrate."""
    calibrate: str | None = None
    """Images with labels for int8: name of a data set, or a folder. Training images determine the ranges, validation
    images the errors before and after."""
    reading: Reading = ReadingOptions()
    allow_loss: float | None = None
    """Allowed increase of the top-1 error by int8, in percentage points, at least 0; 0.5 if not given."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Export, verify and write a network, and print how closely it agrees.

    Raises:
        ConfigError: if an argument is wrong.
        RuntimeError: if the exported network does not agree, or int8 increases the error too much; nothing is written.
    """
    start = time.monotonic()
    kind, out, data = _check_arguments(options)
    from resnetlab.export.export import export

    images = _load_images(options)
    quantizer = None if data is None else _quantizer(data, 0.5 if options.allow_loss is None else options.allow_loss)
    exported = export(options.model, out, kind, images=images, quantizer=quantizer)
    description = describe_export(exported, time.monotonic() - start)
    if options.json:
        print_json(description)
    else:
        print_export(description)
    return 0


def describe_export(exported: "ExportedFile", time_s: float) -> dict[str, Any]:
    """Return the description of an exported file for the JSON output."""
    metadata = asdict(exported.metadata)
    return {
        "out": str(exported.path),
        "files": [str(file) for file in exported.files],
        "num_bytes": sum(file.stat().st_size for file in exported.files),
        "network": exported.card.model.name,
        "num_classes": len(exported.card.classes),
        **{name: metadata[name] for name in ("format", "precision", "agreement", "int8", "versions")},
        "time_s": round(time_s, 2),
    }


def print_export(description: dict[str, Any]) -> None:
    """Print files, network and agreement in at most 80 columns, except for paths."""
    agreement, int8 = description["agreement"], description["int8"]
    print(f"export     {', '.join(description['files'])}")
    classes = count_text(description["num_classes"], "class")
    print(
        f"network    {description['network']}, {classes}; {description['format']}, {description['precision']}, "
        f"{description['num_bytes'] / 1e6:.2f} MB"
    )
    batches = ", ".join(f"{difference:.1e} at batch {size}" for size, difference in agreement["by_batch"].items())
    print(f"logits     differ by up to {batches}")
    if agreement["tolerance"] is not None:
        print(f"           tolerance {agreement['tolerance']:.1e}; {agreement['num_images']} images, real and random")
    print(f"same class {agreement['top1_agreement_pct']:.1f} % of the images")
    if int8:
        print(
            f"error      {int8['error_before_pct']:.2f} % before, {int8['error_after_pct']:.2f} % in int8 "
            f"({int8['validation_images']:,} validation images)"
        )
    print(f"time       {description['time_s']:.1f} s")


def _check_arguments(options: Options) -> tuple["Format", Path, DataConfig | None]:
    """Check everything that needs no PyTorch; return format, output file and calibration data.

    Raises:
        ConfigError: if an argument is wrong.
    """
    from resnetlab.data.registry import detect_kind
    from resnetlab.inference.formats.exported_file import is_exported_file
    from resnetlab.models.model_card import find_model_file, read_card

    if is_exported_file(options.model):
        raise ConfigError(f"{options.model} is already an exported file; export its source model file")
    read_card(options.model)
    kind, out = _output_file(options, find_model_file(options.model))
    if not options.int8:
        refuse_unused(options, ("calibrate", "allow_loss", *READING_OPTIONS), "--int8")
        return kind, out, None
    if kind == "torch-export":
        raise ConfigError("int8 is only for onnx and openvino; torch-export has fp32")
    if options.calibrate is None:
        raise ConfigError("--int8 requires images with labels, like those in use: --calibrate cifar10, or a folder")
    loss = options.allow_loss
    if loss is not None and not (math.isfinite(loss) and loss >= 0):
        raise ConfigError(f"--allow-loss must be percentage points of error, at least 0, not {loss}")
    data = DataConfig(options.calibrate, **options.reading.changes())
    detect_kind(data)
    return kind, out, data


def _output_file(options: Options, model: Path) -> tuple["Format", Path]:
    """Return the format and the output file; each may determine the other."""
    from resnetlab.inference.formats.exported_file import SUFFIXES
    from resnetlab.models.pretrained.resolve import output_base

    suffixes = {kind: suffix for suffix, kind in SUFFIXES.items()}
    if options.out is None:
        kind: Format = options.format or "onnx"
        base = output_base(options.model, model)
        return kind, base.with_name(f"{base.stem}{'-int8' if options.int8 else ''}{suffixes[kind]}")
    kind_of_suffix = SUFFIXES.get(options.out.suffix.lower())
    if kind_of_suffix is None:
        supported = ", ".join(f"{suffix} ({kind})" for suffix, kind in SUFFIXES.items())
        raise ConfigError(f"--out {options.out}: the suffix must be one of {supported}")
    if options.format not in (None, kind_of_suffix):
        raise ConfigError(
            f"--out {options.out} is for {kind_of_suffix}, but --format is {options.format}, whose files end in "
            f"{suffixes[options.format]}; leave one of them out"
        )
    check_parent("--out", options.out)
    return kind_of_suffix, options.out


def _load_images(options: Options) -> "np.ndarray | None":
    """Return the user's images, cropped as for the network: uint8 (batch, height, width, channels).

    Raises:
        ConfigError: if there are no images, too many, or one that cannot be decoded.
    """
    if options.images is None:
        return None
    from resnetlab.data.images.decode import BadImageError
    from resnetlab.inference.inputs import find_inputs
    from resnetlab.inference.probe_images import user_images
    from resnetlab.models.model_card import read_card

    encoded: dict[str, bytes] = {}
    for file in find_inputs(options.images):
        if file is None:
            continue
        if len(encoded) == MAX_IMAGES:
            raise ConfigError(f"--images names more than {MAX_IMAGES} images; name a few different ones")
        try:
            encoded[file.name] = file.read()
        except BadImageError as error:
            raise ConfigError(f"{file.name}: {error}") from error
    if not encoded:
        raise ConfigError("--images names no images; leave it out, or name files, folders or globs")
    try:
        return user_images(encoded, read_card(options.model).preprocessing)
    except BadImageError as error:
        raise ConfigError(str(error)) from error


def _quantizer(data: DataConfig, allowed_loss_pct: float) -> "Quantizer":
    """Return a function that converts a graph to int8."""
    from resnetlab.export.quantize import quantize

    def quantizer(graph: Any, card: Any, model: Any) -> tuple[Any, dict[str, Any]]:
        with _progress_bar() as on_progress:
            return quantize(graph, card, data, allowed_loss_pct=allowed_loss_pct, model=model, on_progress=on_progress)

    return quantizer


@contextmanager
def _progress_bar() -> Iterator["Progress"]:
    """Show the progress of calibration on stderr, if stderr is a terminal."""
    from rich.progress import Progress as Bar

    from resnetlab.cli.console import open_console

    with Bar(console=open_console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("opening")
        yield lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total)
