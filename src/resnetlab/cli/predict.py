"""`resnetlab predict`: classify images, one line an image, with Grad-CAM overlays on request."""

import sys
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnetlab.cli.predict_output import PredictProgress, print_line
from resnetlab.cli.terminal import json_text
from resnetlab.cli.unused_options import refuse_unused
from resnetlab.config import ConfigError
from resnetlab.inference.rejection import check_reject_below

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from resnetlab.data.images.left_out import LeftOut
    from resnetlab.inference.batch_predict import BatchResult
    from resnetlab.inference.open_engine import BackendOption
    from resnetlab.inference.overlay_writer import OverlayWriter
    from resnetlab.inference.predictor import Prediction, Predictor

OVERLAYS = Path("explained")
"""Folder of the overlays if none is given."""


@dataclass(frozen=True)
class Options:
    """Classify images: one line an image, the most probable class first.

    Images are files, folders (with their subfolders), quoted globs such as 'photos/**/*.jpg', or - for standard input:
    one image, or a list of paths, one a line. If an image cannot be read, a line on standard error has the reason, the
    others are classified, and the exit status is 1. Files in folders that are not images, by their content, are left
    out; standard error says how many and why.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """A model file, a run directory, an exported file, or a name from `resnetlab weights`."""
    paths: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Images, at least one."""
    top: int = 5
    """Classes an image, at least 1. A terminal shows as many as fit; --json and files have all of them."""
    json: bool = False
    """Print one JSON object a line and image: path, label, probability, top; or path, error. A network for several
    labels an image adds labels: those above their thresholds; --explain adds overlay: the file."""
    reject_below: float | None = None
    """Answer unknown, and list the candidates, if the most probable class has a lower probability; above 1 / number of
    classes and below 1, such as 0.8. With --json, unknown is true or false. `resnetlab evaluate --fit-temperature
    --reject-below` shows what a threshold does."""
    explain: bool = False
    """Draw the regions of each image that speak for its class (Grad-CAM)."""
    out: Path | None = None
    """Folder for these overlays, explained if not given; other files in it are not overwritten."""
    backend: Literal["auto", "torch", "onnxruntime", "openvino"] | None = None
    """Runtime. auto measures once which one with the same predictions is the fastest here, and stores the result beside
    the model. The default is the stored result, or else PyTorch or the runtime that reads the exported file."""
    batch_size: int | None = None
    """Images in a batch, at least 1. The default depends on the image size."""
    workers: int | None = None
    """Threads that each decode and classify batches, at least 1; by default one a core. With 1 each layer uses all
    cores: faster for ResNet-50 (with --batch-size 4) on an idle machine, slower on a busy one."""
    color_profiles: Literal["apply", "ignore"] | None = None
    """apply converts colours to sRGB by the embedded ICC profiles, as a viewer does; ignore leaves the pixels as they
    are. As in the model file if not given."""
    max_megapixels: int = 100
    """Images that claim more are rejected before they are decoded; at least 1."""


def run(options: Options) -> int:
    """Classify each image as it arrives. Return 1 if an image could not be read.

    Raises:
        ConfigError: The options are wrong.
        OSError: An overlay cannot be written. The prediction of its image has been printed.
    """
    _check(options)
    from resnetlab.cli.console import open_console

    console = open_console()
    predictor = _load_predictor(options)
    writer = _overlay_writer(options, predictor)
    from resnetlab.data.images.left_out import LeftOut

    progress, left_out = PredictProgress(), LeftOut()
    with closing(_predict(options, predictor, left_out)) as results:
        for result in results:
            overlay, write_error = _write_overlay(writer, result)
            if options.json:
                print(json_line(result, overlay, rejects=options.reject_below is not None), flush=True)
            elif result.prediction is not None:
                print_line(result.name, result.prediction, predictor.classes, console=console)
            progress.update(result)
            if write_error is not None:
                progress.end()
                raise write_error
    progress.end(left_out.lines())
    if writer is not None and not options.json:
        console.print(f"overlays: {options.out or OVERLAYS}", soft_wrap=True, highlight=False)
    return int(progress.num_failed > 0)


def json_line(result: "BatchResult", overlay: Path | None, *, rejects: bool = False) -> str:
    """Return a result, and the file of its overlay, as a JSON object without a line end.

    With `rejects` it says whether the image is unknown.
    """
    record: dict[str, Any] = {"path": result.name}
    if result.prediction is None:
        record["error"] = result.error
    else:
        top = [{"class": name, "probability": probability} for name, probability in result.prediction.top]
        record |= {"label": result.prediction.label, "probability": result.prediction.probability}
        if result.prediction.labels is not None:
            record["labels"] = list(result.prediction.labels)
        record |= {"unknown": result.prediction.is_unknown, "top": top} if rejects else {"top": top}
    if overlay is not None:
        record |= {"overlay": str(overlay), "drawing": str(overlay)}  # drawing: the name of older versions
    return json_text(record)


def _check(options: Options) -> None:
    if not options.paths:
        raise ConfigError("no images; name files, folders, quoted globs such as 'photos/*.jpg', or - for a list")
    check_reject_below(options.reject_below)
    if not options.explain:
        refuse_unused(options, ("out",), "--explain")
    for name in ("top", "batch_size", "workers", "max_megapixels"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name.replace('_', '-')} must be at least 1, not {value}")


def _load_predictor(options: Options) -> "Predictor":
    predictor = load_predictor(
        options.model, backend=options.backend, workers=options.workers, reject_below=options.reject_below
    )
    predictor.max_pixels = options.max_megapixels * 1_000_000
    if options.color_profiles is not None:
        preprocessing = replace(predictor.preprocessing, color_profiles=options.color_profiles)
        predictor.card = replace(predictor.card, preprocessing=preprocessing)
    return predictor


def load_predictor(
    model: Path, *, backend: "BackendOption | None", workers: int | None, reject_below: float | None = None
) -> "Predictor":
    """Load the network, and divide the cores between the threads that will call it.

    Args:
        model: A model file, a run directory, an exported file, or the name of published weights.
        backend: The runtime; the stored selection or the default if not given.
        workers: Threads; one for each core if not given.
        reject_below: As for `Predictor`.
    """
    from resnetlab.inference.formats.exported_file import is_exported_file
    from resnetlab.models.model_card import read_card
    from resnetlab.system.cores import usable_cores

    if not is_exported_file(model):
        read_card(model)  # reports a wrong path before PyTorch is imported
    from resnetlab.inference.predictor import load

    callers = workers or usable_cores()
    cores = max(1, usable_cores() // callers)
    return load(model, backend=backend or "cached", cores=cores, callers=callers, reject_below=reject_below, log=_log)


def _predict(options: Options, predictor: "Predictor", left_out: "LeftOut") -> Generator["BatchResult", None, None]:
    """Start the prediction and return its results."""
    from resnetlab.inference.batch_predict import default_batch_size, predict_batches
    from resnetlab.inference.inputs import find_inputs
    from resnetlab.system.cores import usable_cores

    def render(encoded: bytes, view: "np.ndarray", prediction: "Prediction") -> "Image.Image":
        from resnetlab.inference.explain import render_overlay

        return render_overlay(predictor, prediction, encoded=encoded, view=view)

    height, width = predictor.preprocessing.input_size
    return predict_batches(
        predictor,
        find_inputs(options.paths, left_out),
        top=options.top,
        batch_size=options.batch_size or default_batch_size(height * width, with_overlays=options.explain),
        workers=options.workers or usable_cores(),
        render=render if options.explain else None,
    )


def _write_overlay(writer: "OverlayWriter | None", result: "BatchResult") -> tuple[Path | None, OSError | None]:
    """Write the overlay of a result, if any. Return its file, or the error."""
    if writer is None or result.prediction is None:
        return None, None
    try:
        return writer.write(result.name, result.overlay), None
    except OSError as error:
        return None, error


def _overlay_writer(options: Options, predictor: "Predictor") -> "OverlayWriter | None":
    if not options.explain:
        return None
    from resnetlab.inference.explain import require_packages
    from resnetlab.inference.overlay_writer import OverlayWriter

    require_packages(predictor.engine)  # reports a missing package before the folder is created
    return OverlayWriter(options.out or OVERLAYS)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
