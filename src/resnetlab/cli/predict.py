"""`resnetlab predict`: name what is in pictures, one line each, and show why."""

import json
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnetlab.config import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from resnetlab.inference.batch_predict import BatchResult
    from resnetlab.inference.overlay_writer import OverlayWriter
    from resnetlab.inference.predictor import Prediction, Predictor

NAME, CLASS, OTHER = 27, 22, 16
"""Columns of a picture's name in a terminal of 80, and at most of its class and of each other class."""
MORE = "  …"
"""Behind the last class that has room, where there are more."""
EVERY_S = 0.2
"""Seconds between two signs of progress."""


@dataclass(frozen=True)
class Options:
    """Name what is in pictures: a line each, the most probable class first.

    Pictures are files, folders (with all folders in them), quoted globs such as 'photos/**/*.jpg', or - for standard
    input: one image, or a list of paths, a line each. One that cannot be read is told on standard error, the others are
    done, and the exit status is 1.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """A model file, a run directory, or an exported file."""
    paths: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Pictures, at least one."""
    top: int = 5
    """Classes to name, at least 1; in a terminal as many of them as have room, with --json or in a file all."""
    json: bool = False
    """Print one JSON object a picture and line: path, label, probability, top; or path, error."""
    explain: bool = False
    """Draw where each picture shows what speaks for its class (Grad-CAM)."""
    out: Path = Path("explained")
    """Folder for these drawings; no other file in it is overwritten."""
    backend: Literal["auto", "torch", "onnxruntime", "openvino"] | None = None
    """What computes the network. auto measures once which is the fastest here that gives the same answers, and notes it
    beside the model; if not given, what was noted, or else PyTorch, or what reads the exported file."""
    batch_size: int | None = None
    """Images that go through the network together, at least 1; fewer the larger they are, if not given."""
    workers: int | None = None
    """Threads that each decode and judge a batch, at least 1; one a core, if not given. With 1 each layer is spread
    over all cores: faster for ResNet-50 (with --batch-size 4) where nobody else uses them, slower on busy ones."""
    max_megapixels: int = 100
    """Images that claim more are refused before memory is taken, at least 1."""


def run(options: Options) -> int:
    """Predict each picture as it comes; return 1 where one could not be read.

    Raises:
        ConfigError: for a mistake in the call.
        OSError: where a drawing cannot be written; its picture's answer has been printed.
    """
    _check(options)
    from rich.console import Console

    console = Console(markup=False)
    predictor = _predictor(options)
    album = _album(options, predictor)
    progress = PredictProgress()
    with closing(_answers(options, predictor)) as made:
        for answer in made:
            drawing, lost = _drawn(album, answer)
            if options.json:
                print(json_line(answer, drawing), flush=True)
            elif answer.prediction is not None:
                print_line(answer.name, answer.prediction, predictor.classes, console)
            progress.see(answer)
            if lost is not None:
                progress.end()
                raise lost
    progress.end()
    if album is not None and not options.json:
        console.print(f"drawings: {options.out}", soft_wrap=True, highlight=False)
    return int(progress.failed > 0)


def json_line(answer: "BatchResult", drawing: Path | None) -> str:
    """Return an answer as one JSON object without a line end."""
    said: dict[str, Any] = {"path": answer.name}
    if answer.prediction is None:
        said["error"] = answer.error
    else:
        top = [{"class": name, "probability": probability} for name, probability in answer.prediction.top]
        said |= {"label": answer.prediction.label, "probability": answer.prediction.probability, "top": top}
    if drawing is not None:
        said["drawing"] = str(drawing)
    line = json.dumps(said, ensure_ascii=False)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a file's name that is no UTF-8, or a terminal that is not
        line = json.dumps(said)
    return line


def print_line(name: str, prediction: "Prediction", classes: Sequence[str], console: "Console") -> None:
    """Print a picture's name, its class and probability, and the other classes.

    In a terminal it is one line of it: long names are cut, and an ellipsis stands for classes that have no room. In a
    file or a pipe nothing is left out.
    """
    from rich.cells import cell_len
    from rich.text import Text

    columns = max(map(cell_len, classes), default=0)
    percent = [f"{100 * probability:.1f} %" for _, probability in prediction.top]
    if not console.is_terminal:
        others = ", ".join(f"{_cell(prediction.top[at][0])} {percent[at]}" for at in range(1, len(percent)))
        best = f"{_filled(_cell(name), NAME)}  {_filled(_cell(prediction.label), columns)} {percent[0]:>7}"
        print(f"{best}  {others}".rstrip(), flush=True)
        return
    first, second = NAME + max(0, console.width - 80) // 2, min(CLASS, columns)
    start = _cell(_path(name, first), first) + "  "
    best = f"{_cell(prediction.label, second)} {percent[0]:>7}"
    room = console.width - 1 - cell_len(start + best)  # a last column left free: some terminals wrap when it is filled
    others = ""
    for number, (other, _) in enumerate(prediction.top[1:], start=1):
        one = f"{',' if others else ' '} {_cell(other, OTHER).strip()} {percent[number]}"
        more = len(MORE) if number + 1 < len(percent) else 0
        if cell_len(others + one) + more > room:
            others += MORE if cell_len(others) + len(MORE) <= room else ""
            break
        others += one
    console.print(Text.assemble(start, (best, "bold"), (others, "dim")), highlight=False, no_wrap=True)


class PredictProgress:
    """What standard error is told: each error in a line, and how far we are where nobody sees the answers pass."""

    def __init__(self) -> None:
        self.done = self.failed = 0
        self._live = sys.stderr.isatty() and not sys.stdout.isatty()
        self._start = self._shown = time.monotonic()

    def see(self, answer: "BatchResult") -> None:
        """Count an answer; tell its error."""
        self.done += 1
        if answer.prediction is None:
            self.failed += 1
            self._say(f"resnetlab: {_cell(answer.name)}: {answer.error}\n")
        now = time.monotonic()
        if self._live and now - self._shown >= EVERY_S:
            self._shown = now
            self._say(f"{self.done:,} pictures, {self.done / (now - self._start):,.0f} a second")

    def end(self) -> None:
        """Tell how many could not be read, if any."""
        self._say("")
        if self.failed:
            pictures = "picture" if self.done == 1 else "pictures"
            self._say(f"resnetlab: {self.failed:,} of {self.done:,} {pictures} could not be read\n")

    def _say(self, words: str) -> None:
        """Write over the progress that may stand there."""
        print(f"\r\x1b[K{words}" if self._live else words, end="", file=sys.stderr, flush=True)


def _check(options: Options) -> None:
    if not options.paths:
        raise ConfigError("no pictures; name files, folders, quoted globs such as 'photos/*.jpg', or - for a list")
    for name in ("top", "batch_size", "workers", "max_megapixels"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name.replace('_', '-')} must be at least 1, not {value}")


def _predictor(options: Options) -> "Predictor":
    """Load the network, and share the cores between the threads that will call it."""
    from resnetlab.inference.formats.exported_file import is_exported_file
    from resnetlab.models.model_card import read_card
    from resnetlab.system.cores import usable_cores

    if not is_exported_file(options.model):
        read_card(options.model)  # a mistake is told before PyTorch is loaded
    from resnetlab.inference.predictor import load

    workers = options.workers or usable_cores()
    cores = max(1, usable_cores() // workers)
    predictor = load(options.model, backend=options.backend or "known", cores=cores, callers=workers, tell=_tell)
    predictor.max_pixels = options.max_megapixels * 1_000_000
    return predictor


def _answers(options: Options, predictor: "Predictor") -> Generator["BatchResult", None, None]:
    """Begin."""
    from resnetlab.inference.batch_predict import default_batch_size, predict_batches
    from resnetlab.inference.inputs import find_inputs
    from resnetlab.system.cores import usable_cores

    also = None
    if options.explain:
        from resnetlab.inference.explain import render_overlay

        also = partial(render_overlay, predictor)
    size = options.batch_size or default_batch_size(predictor.preprocessing.image_size, explained=options.explain)
    workers = options.workers or usable_cores()
    return predict_batches(
        predictor, find_inputs(options.paths), top=options.top, batch_size=size, workers=workers, also=also
    )


def _drawn(album: "OverlayWriter | None", answer: "BatchResult") -> tuple[Path | None, OSError | None]:
    """Write an answer's drawing, if any; return its file, or why there is none."""
    if album is None or answer.prediction is None:
        return None, None
    try:
        return album.add(answer.name, answer.also), None
    except OSError as error:
        return None, error


def _album(options: Options, predictor: "Predictor") -> "OverlayWriter | None":
    if not options.explain:
        return None
    from resnetlab.inference.explain import require
    from resnetlab.inference.overlay_writer import OverlayWriter

    require(predictor.engine)  # a package that is missing is told before anything is made
    return OverlayWriter(options.out)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _path(name: str, columns: int) -> str:
    """Return a path of so many columns: folders are left out before anything of the file's own name is."""
    from rich.cells import cell_len

    own = "…/" + name.rpartition("/")[2]
    room = columns - cell_len(own)
    return name if cell_len(name) <= columns or room < 0 else name[:room] + own


def _cell(name: str, columns: int | None = None) -> str:
    """Return a name as a terminal can show it, so many columns wide if given: cut in the middle, or filled up."""
    from rich.cells import cell_len

    from resnetlab.inference.inputs import shorten_middle

    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    if columns is None:
        return shown
    return _filled(shorten_middle(shown, columns, cell_len), columns)


def _filled(shown: str, columns: int) -> str:
    """Return words with spaces behind them, so many columns wide at least."""
    from rich.cells import cell_len

    return shown + " " * (columns - cell_len(shown))
