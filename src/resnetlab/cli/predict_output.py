"""Text output of `resnetlab predict`: one line an image on standard output; errors and progress on standard error."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from resnetlab.cli.terminal import escape, escape_name, unescaped
from resnetlab.inference.prediction import NO_LABEL

if TYPE_CHECKING:
    from rich.console import Console

    from resnetlab.inference.batch_predict import BatchResult
    from resnetlab.inference.prediction import Prediction

NAME_COLUMNS, CLASS_COLUMNS, OTHER_COLUMNS = 27, 22, 16
"""Columns of an image's name in a terminal of 80; largest widths of its class and of each other class."""
MORE = "  …"
"""Printed after the last class that fits, if there are more."""
PROGRESS_INTERVAL_S = 0.2
"""Seconds between two updates of the progress line."""


def print_line(name: str, prediction: "Prediction", classes: Sequence[str], *, console: "Console") -> None:
    """Print an image's name, its class and probability, and the other classes; of an unknown image, all candidates.

    Where an image may have several labels, they come first, and all candidates follow. In a terminal the output is one
    line: long names are cut, and an ellipsis stands for classes that do not fit. In a file or a
    pipe nothing is left out.

    Args:
        name: The name of the image.
        prediction: Its prediction.
        classes: All class names of the network, for the width of the column.
        console: The terminal, or a file.
    """
    from rich.cells import cell_len
    from rich.text import Text

    title = prediction.label if prediction.labels is None else ", ".join(prediction.labels) or NO_LABEL
    lists_all = prediction.is_unknown or prediction.labels is not None
    columns = max(map(cell_len, (*classes, title)), default=0)
    first = 0 if lists_all else 1  # the first class that is listed after the answer
    percents = [f"{100 * probability:.1f} %" for _, probability in prediction.top]
    answer = "" if lists_all else percents[0]
    if not console.is_terminal:
        others = ", ".join(f"{_cell(prediction.top[rank][0])} {percents[rank]}" for rank in range(first, len(percents)))
        best = f"{_pad(_cell(name), NAME_COLUMNS)}  {_pad(_cell(title), columns)} {answer:>7}"
        print(f"{best}  {others}".rstrip(), flush=True)
        return
    name_columns = NAME_COLUMNS + max(0, console.width - 80) // 2
    start = _cell(_shorten_path(name, name_columns), name_columns) + "  "
    best = f"{_cell(title, min(CLASS_COLUMNS, columns))} {answer:>7}"
    room = console.width - 1 - cell_len(start + best)  # some terminals wrap if the last column is used
    others = ""
    for rank, (other, _) in enumerate(prediction.top[first:], start=first):
        item = f"{',' if others else ' '} {_cell(other, OTHER_COLUMNS).strip()} {percents[rank]}"
        ellipsis_columns = len(MORE) if rank + 1 < len(percents) else 0
        if cell_len(others + item) + ellipsis_columns > room:
            others += MORE if cell_len(others) + len(MORE) <= room else ""
            break
        others += item
    console.print(Text.assemble(start, (best, "bold"), (others, "dim")), highlight=False, no_wrap=True)


class PredictProgress:
    """Output on standard error: a line for each error, and a progress line if the results go to a file.

    Args:
        prints_results: Whether a line for each result is printed on standard output meanwhile.
    """

    def __init__(self, *, prints_results: bool = True) -> None:
        self.num_done = self.num_failed = 0
        self._is_live = sys.stderr.isatty() and not (prints_results and sys.stdout.isatty())
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
