"""`resnetlab export`: a network for other runtimes, in a file that has proved itself."""

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnetlab.config import ConfigError, DataConfig

if TYPE_CHECKING:
    import numpy as np

    from resnetlab.data.images.scan import Progress
    from resnetlab.export.export import Quantise
    from resnetlab.inference.formats.exported_file import ExportedFile, Format

MOST_IMAGES = 256
"""Pictures of the user's that are compared on, at most."""


@dataclass(frozen=True)
class Options:
    """Make ONNX, OpenVINO or a torch.export program of a network, one file that takes pixels and gives logits.

    Batch normalisation is folded, normalisation is inside, classes and preprocessing stand in the metadata. The file is
    opened again in its own runtime and its logits are compared with the network's; where they differ by more than
    rounding explains, nothing is written and the exit status is 1.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """A model file, or a run directory."""
    format: Literal["onnx", "openvino", "torch-export"] | None = None
    """What --out ends in says it (.onnx, .xml, .pt2) if not given, and else onnx."""
    out: Path | None = None
    """The file to write; one that is there is replaced. Beside the model if not given. OpenVINO writes a .bin too."""
    images: tuple[str, ...] | None = None
    """Pictures to compare on, besides random ones: files, folders, quoted globs; two photographs, cut in many ways, if
    not given."""
    int8: bool = False
    """Compute in 8-bit integers: smaller, and faster on many processors. Needs --calibrate."""
    calibrate: str | None = None
    """Images with labels for int8: a data set with a name, or a folder. Ranges are taken from training images, errors
    before and after from validation images."""
    data_root: Path | None = None
    """Folder where the archives of a named data set lie."""
    allow_loss: float | None = None
    """Points of top-1 error that int8 may lose, at least 0; 0.5 if not given."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Export, compare, write, and say how closely it agrees.

    Raises:
        ConfigError: for a mistake in the call.
        RuntimeError: where the exported network does not agree, or loses too much in int8; nothing was written.
    """
    begun = time.monotonic()
    kind, out, data = _look_before_loading(options)
    from resnetlab.export.export import export

    pictures = _pictures(options)
    quantise = None if data is None else _quantise(data, 0.5 if options.allow_loss is None else options.allow_loss)
    artefact = export(options.model, out, kind, pictures=pictures, quantise=quantise)
    said = describe_export(artefact, time.monotonic() - begun)
    if options.json:
        print(json.dumps(said, ensure_ascii=False))
    else:
        print_export(said)
    return 0


def describe_export(artefact: "ExportedFile", time_s: float) -> dict[str, Any]:
    """Return what is to be said of a file that was written."""
    files = artefact.files
    says = asdict(artefact.metadata)
    return {
        "out": str(artefact.path),
        "files": [str(file) for file in files],
        "num_bytes": sum(file.stat().st_size for file in files),
        "network": artefact.card.model.name,
        "num_classes": len(artefact.card.classes),
        **{name: says[name] for name in ("format", "precision", "agreement", "int8", "versions")},
        "time_s": round(time_s, 2),
    }


def print_export(said: dict[str, Any]) -> None:
    """Print which file it is, and how closely it agrees, in 80 columns but for paths."""
    agreement, int8 = said["agreement"], said["int8"]
    print(f"export     {', '.join(said['files'])}")
    print(
        f"network    {said['network']}, {said['num_classes']} classes; {said['format']}, {said['precision']}, "
        f"{said['num_bytes'] / 1e6:.2f} MB"
    )
    batches = ", ".join(f"{difference:.1e} at batch {size}" for size, difference in agreement["by_batch"].items())
    print(f"logits     differ by up to {batches}")
    if agreement["tolerance"] is not None:
        print(f"           tolerance {agreement['tolerance']:.1e}; {agreement['num_images']} images, real and random")
    print(f"same class {agreement['top1_agreement_pct']:.1f} % of them")
    if int8:
        print(
            f"error      {int8['error_before_pct']:.2f} % before, {int8['error_after_pct']:.2f} % in int8 "
            f"({int8['validation_images']:,} validation images)"
        )
    print(f"time       {said['time_s']:.1f} s")


def _look_before_loading(options: Options) -> tuple["Format", Path, DataConfig | None]:
    """Find what is wrong and needs no PyTorch to be found; return format, file and calibration images."""
    from resnetlab.data.registry import detect_kind
    from resnetlab.inference.formats.exported_file import is_exported_file
    from resnetlab.models.model_card import find_model_file, read_card

    if is_exported_file(options.model):
        raise ConfigError(f"{options.model} is an export itself; export the model file that it was made of")
    read_card(options.model)
    kind, out = _destination(options, find_model_file(options.model))
    if not options.int8:
        for name in ("calibrate", "allow_loss", "data_root"):
            if getattr(options, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} is for --int8; add that, or leave it out")
        return kind, out, None
    if kind == "torch-export":
        raise ConfigError("int8 is for onnx and openvino; torch-export has fp32 alone")
    if options.calibrate is None:
        raise ConfigError("int8 needs images with labels, such as it will see: --calibrate cifar10, or a folder")
    loss = options.allow_loss
    if loss is not None and not (math.isfinite(loss) and loss >= 0):
        raise ConfigError(f"allow-loss must be points of error, at least 0, not {loss}")
    data = DataConfig(options.calibrate, None if options.data_root is None else str(options.data_root))
    detect_kind(data)
    return kind, out, data


def _destination(options: Options, model: Path) -> tuple["Format", Path]:
    """Return the format and the file, of which either may have been left to the other."""
    from resnetlab.inference.formats.exported_file import SUFFIXES

    suffixes = {kind: suffix for suffix, kind in SUFFIXES.items()}
    if options.out is None:
        kind: Format = options.format or "onnx"
        return kind, model.with_name(f"{model.stem}{'-int8' if options.int8 else ''}{suffixes[kind]}")
    meant = SUFFIXES.get(options.out.suffix.lower())
    if meant is None:
        named = ", ".join(f"{suffix} ({kind})" for suffix, kind in SUFFIXES.items())
        raise ConfigError(f"--out {options.out}: an export ends in one of: {named}")
    if options.format not in (None, meant):
        raise ConfigError(
            f"--out {options.out} means {meant}, and --format says {options.format}, whose files end in "
            f"{suffixes[options.format]}; leave one of them out"
        )
    return meant, options.out


def _pictures(options: Options) -> "np.ndarray | None":
    """Return the user's own pictures as the network sees them."""
    if options.images is None:
        return None
    from resnetlab.data.images.decode import BadImageError
    from resnetlab.inference.inputs import find_inputs
    from resnetlab.inference.probe_images import user_images
    from resnetlab.models.model_card import read_card

    found: dict[str, bytes] = {}
    for one in find_inputs(options.images):
        if one is None:
            continue
        if len(found) == MOST_IMAGES:
            raise ConfigError(f"--images means more than {MOST_IMAGES} pictures; some that differ are enough")
        try:
            found[one.name] = one.read()
        except BadImageError as error:
            raise ConfigError(f"{one.name}: {error}") from error
    if not found:
        raise ConfigError("--images names no pictures; leave it out, or name files, folders or globs")
    try:
        return user_images(found, read_card(options.model).preprocessing)
    except BadImageError as error:
        raise ConfigError(str(error)) from error


def _quantise(data: DataConfig, allowed_loss_pct: float) -> "Quantise":
    """Return what makes int8 of a graph."""
    from resnetlab.export.quantize import quantize

    def quantise(graph: Any, card: Any, model: Any) -> tuple[Any, dict[str, Any]]:
        with _bar() as tell:
            return quantize(graph, card, data, allowed_loss_pct=allowed_loss_pct, model=model, tell=tell)

    return quantise


@contextmanager
def _bar() -> Iterator["Progress"]:
    """Show on stderr how far calibration is, to whoever watches a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("opening")
        yield lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total)
