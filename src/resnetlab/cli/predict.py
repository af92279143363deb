"""`resnetlab predict`: classify images, one line an image, with Grad-CAM overlays on request."""

import json
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnetlab.cli.terminal import escape, escape_name, unescaped
from resnetlab.config import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from rich.console import Console

    from resnetlab.data.images.left_out import LeftOut
    from resnetlab.inference.batch_predict import BatchResult
    from resnetlab.inference.overlay_writer import OverlayWriter
    from resnetlab.inference.predictor import Prediction, Predictor

NAME_COLUMNS, CLASS_COLUMNS, OTHER_COLUMNS = 27, 22, 16
"""Columns of an image's name in a terminal of 80; largest widths of its class and of each other class."""
MORE = "  …"
"""Printed after the last class that fits, if there are more."""
PROGRESS_INTERVAL_S = 0.2
"""Seconds between two updates of the progress line."""


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
    """Print one JSON object a line and image: path, label, probability, top; or path, error."""
    explain: bool = False
    """Draw the regions of each image that speak for its class (Grad-CAM)."""
    out: Path = Path("explained")
    """Folder for these overlays; other files in it are not overwritten."""
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
                print(json_line(result, overlay), flush=True)
            elif result.prediction is not None:
                print_line(result.name, result.prediction, predictor.classes, console=console)
            progress.update(result)
            if write_error is not None:
                progress.end()
                raise write_error
    progress.end(left_out.lines())
    if writer is not None and not options.json:
        console.print(f"overlays: {options.out}", soft_wrap=True, highlight=False)
    return int(progress.num_failed > 0)


def json_line(result: "BatchResult", overlay: Path | None) -> str:
    """Return a result, and the file of its overlay, as a JSON object without a line end."""
    record: dict[str, Any] = {"path": result.name}
    if result.prediction is None:
        record["error"] = result.error
    else:
        top = [{"class": name, "probability": probability} for name, probability in result.prediction.top]
        record |= {"label": result.prediction.label, "probability": result.prediction.probability, "top": top}
    if overlay is not None:
        record["drawing"] = str(overlay)
    return escape(json.dumps(record, ensure_ascii=False))


def print_line(name: str, prediction: "Prediction", classes: Sequence[str], *, console: "Console") -> None:
    """Print an image's name, its class and probability, and the other classes.

    In a terminal the output is one line: long names are cut, and an ellipsis stands for classes that do not fit. In a
    file or a pipe nothing is left out.

    Args:
        name: The name of the image.
        prediction: Its prediction.
        classes: All class names of the network, for the width of the column.
        console: The terminal, or a file.
    """
    from rich.cells import cell_len
    from rich.text import Text

    columns = max(map(cell_len, classes), default=0)
    percents = [f"{100 * probability:.1f} %" for _, probability in prediction.top]
    if not console.is_terminal:
        others = ", ".join(f"{_cell(prediction.top[rank][0])} {percents[rank]}" for rank in range(1, len(percents)))
        best = f"{_pad(_cell(name), NAME_COLUMNS)}  {_pad(_cell(prediction.label), columns)} {percents[0]:>7}"
        print(f"{best}  {others}".rstrip(), flush=True)
        return
    name_columns = NAME_COLUMNS + max(0, console.width - 80) // 2
    start = _cell(_shorten_path(name, name_columns), name_columns) + "  "
    best = f"{_cell(prediction.label, min(CLASS_COLUMNS, columns))} {percents[0]:>7}"
    room = console.width - 1 - cell_len(start + best)  # some terminals wrap if the last column is used
    others = ""
    for rank, (other, _) in enumerate(prediction.top[1:], start=1):
        item = f"{',' if others else ' '} {_cell(other, OTHER_COLUMNS).strip()} {percents[rank]}"
        ellipsis_columns = len(MORE) if rank + 1 < len(percents) else 0
        if cell_len(others + item) + ellipsis_columns > room:
            others += MORE if cell_len(others) + len(MORE) <= room else ""
            break
        others += item
    console.print(Text.assemble(start, (best, "bold"), (others, "dim")), highlight=False, no_wrap=True)


class PredictProgress:
    """Output on standard error: a line for each error, and a progress line if the results go to a file."""

    def __init__(self) -> None:
        self.num_done = self.num_failed = 0
        self._is_live = sys.stderr.isatty() and not sys.stdout.isatty()
        self._start = self._updated = time.monotonic()

    def update(self, result: "BatchResult") -> None:
        """Count a result and print its error."""
        self.num_done += 1
        if result.prediction is None:
            self.num_failed += 1
            self._print(f"resnetlab: {_cell(result.name)}: {escape_name(str(result.error))}\n")
        now = time.monotonic()
        if self._is_live and now - self._updated >= PROGRESS_INTERVAL_S:
            self._updated = now
            self._print(f"{self.num_done:,} images, {self.num_done / (now - self._start):,.0f} a second")

    def end(self, left_out: Sequence[str] = ()) -> None:
        """Print how many images could not be read, if any, and which files of folders were left out."""
        self._print("")
        for line in left_out:
            self._print(f"resnetlab: {escape_name(line)}\n")
        if self.num_failed:
            noun = "image" if self.num_done == 1 else "images"
            self._print(f"resnetlab: {self.num_failed:,} of {self.num_done:,} {noun} could not be read\n")

    def _print(self, text: str) -> None:
        """Print a text over the progress line."""
        stderr = unescaped(sys.stderr)
        print(f"\r\x1b[K{escape(text)}" if self._is_live else escape(text), end="", file=stderr, flush=True)


def _check(options: Options) -> None:
    if not options.paths:
        raise ConfigError("no images; name files, folders, quoted globs such as 'photos/*.jpg', or - for a list")
    for name in ("top", "batch_size", "workers", "max_megapixels"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name.replace('_', '-')} must be at least 1, not {value}")


def _load_predictor(options: Options) -> "Predictor":
    """Load the network, and divide the cores between the threads that will call it."""
    from resnetlab.inference.formats.exported_file import is_exported_file
    from resnetlab.models.model_card import read_card
    from resnetlab.system.cores import usable_cores

    if not is_exported_file(options.model):
        read_card(options.model)  # reports a wrong path before PyTorch is imported
    from resnetlab.inference.predictor import load

    workers = options.workers or usable_cores()
    cores = max(1, usable_cores() // workers)
    predictor = load(options.model, backend=options.backend or "cached", cores=cores, callers=workers, log=_log)
    predictor.max_pixels = options.max_megapixels * 1_000_000
    if options.color_profiles is not None:
        preprocessing = replace(predictor.preprocessing, color_profiles=options.color_profiles)
        predictor.card = replace(predictor.card, preprocessing=preprocessing)
    return predictor


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
    return OverlayWriter(options.out)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _shorten_path(name: str, columns: int) -> str:
    """Return a path of at most `columns`, if its file name allows: folders are cut before the file name is."""
    from rich.cells import cell_len

    file_name = "…/" + name.rpartition("/")[2]
    room = columns - cell_len(file_name)
    return name if cell_len(name) <= columns or room < 0 else name[:room] + file_name


def _cell(name: str, columns: int | None = None) -> str:
    """Return a name with control characters escaped; with `columns`, cut in the middle or padded to that width."""
    from rich.cells import cell_len

    from resnetlab.inference.inputs import shorten_middle

    escaped = escape_name(name)
    if columns is None:
        return escaped
    return _pad(shorten_middle(escaped, columns, cell_len), columns)


def _pad(text: str, columns: int) -> str:
    """Return a text, padded with spaces to a width of at least `columns`."""
    from rich.cells import cell_len

    return text + " " * (columns - cell_len(text))
