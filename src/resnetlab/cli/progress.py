"""The progress display of a training run: a live line in a terminal, periodic plain lines elsewhere."""

import math
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from resnetlab.cli.terminal import escape_name
from resnetlab.study.display import time_text
from resnetlab.training.callbacks import Callback
from resnetlab.training.metrics import Progress, StepMetrics

if TYPE_CHECKING:
    from resnetlab.training.trainer import Trainer

PLAIN_INTERVAL_S = 10.0
"""Shortest time between plain lines, in seconds."""

RATE_WINDOW_S = 120.0
"""Time constant of the average step rate, in seconds: long enough for several epochs with their validation."""

LONG_EVALUATION_S = 2.0
"""Expected time in seconds from which the evaluation at the end is announced."""

MAX_WIDTH = 80
"""Largest width of a line, in columns."""


class TrainDisplay(Callback):
    """The progress of one run on a console; as a context manager it restores the terminal."""

    def __init__(
        self, console: Console, clock: Callable[[], float] = time.monotonic, *, announces_evaluation: bool = True
    ) -> None:
        """Display on `console`: a live line if it is a terminal, else plain lines. `clock` returns seconds.

        `announces_evaluation` prints a line before a long evaluation at the end.
        """
        self.console = console
        self.step_rate = StepRate(clock)
        self._clock = clock
        self._announces_evaluation = announces_evaluation
        self._progress: Progress | None = None
        self._next_plain_line_s = -math.inf
        self._live = (
            Live(console=console, auto_refresh=False, transient=True, get_renderable=self._live_line)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "TrainDisplay":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress = None
        if self._live:
            self._live.refresh()
            self._live.stop()

    def on_start(self, trainer: "Trainer") -> None:
        """Print the resolved configuration; long lines are wrapped."""
        for line in trainer.describe():
            self._print(Text(escape_name(line)))

    def on_step(self, trainer: "Trainer", metrics: StepMetrics) -> None:
        """Display the progress report of the step, if it completes one."""
        if metrics.progress:
            self.update(metrics.progress)

    def update(self, progress: Progress) -> None:
        """Display a report. Plain lines are limited to the first report, the last one, and one every 10 s."""
        self.step_rate.update(progress.step)
        self._progress = progress
        if self._live:
            self._live.refresh()
            return
        is_last = progress.step >= progress.total_steps
        if is_last or self._clock() >= self._next_plain_line_s:
            self._next_plain_line_s = self._clock() + PLAIN_INTERVAL_S
            self._print(Text(f"step {self._progress_text(progress)}"))

    def on_epoch(self, trainer: "Trainer | None", line: Mapping[str, Any]) -> None:
        """Print the record's `epoch` line; values that are missing or `None` are omitted."""
        columns = (
            ("epoch", "epoch {:>3}"),
            ("train_error_pct", "train error {:5.1f} %"),
            ("val_error_pct", "val error {:5.1f} %"),
            ("val_mean_average_precision_pct", "val mAP {:5.1f} %"),
            ("lr", "lr {:.4g}"),
        )
        shown = dict(line)
        if shown.get("val_mean_average_precision_pct") is not None:
            del shown["val_error_pct"]  # one line of a terminal has room for one of them
        cells = [template.format(shown[key]) for key, template in columns if shown.get(key) is not None]
        if line.get("time_s") is not None:
            cells.append(time_text(line["time_s"]))
        self._print(Text("  ".join(cells)))

    def on_last_evaluation(self, trainer: "Trainer", epoch: int, expected_s: float | None) -> None:
        """Print what is measured at the end, unless it takes a moment only."""
        if self._announces_evaluation and (expected_s is None or expected_s >= LONG_EVALUATION_S):
            *first, last = [name for name, split in trainer.data.splits.items() if len(split)]
            splits = f"{', '.join(first)} and {last}" if first else last
            self._print(Text(f"measuring the errors of epoch {epoch} on {splits} …"))

    def on_warning(self, trainer: "Trainer | None", message: str) -> None:
        """Print a warning; long lines are wrapped."""
        self._print(Text(escape_name(f"warning: {message}"), style="yellow"))

    def _print(self, text: Text) -> None:
        self.console.print(text, highlight=False, width=self._width)

    @property
    def _width(self) -> int:
        return min(MAX_WIDTH, self.console.width)

    def _progress_text(self, progress: Progress) -> str:
        """Return a report in words; its error is that of the batches since the last one, not the epoch's."""
        cells = [
            f"{progress.step:,}/{progress.total_steps:,}",
            f"batch error {progress.train_error_pct:.1f} %",
            f"{progress.images_per_s:,.0f} images/s",
        ]
        left_s = self.step_rate.time_left_s(progress.total_steps)
        if left_s is not None and progress.step < progress.total_steps:
            cells.append(f"{time_text(left_s)} left")
        return "  ".join(cells)

    def _live_line(self) -> Group | Table:
        if self._progress is None:
            return Group()
        text = Text(self._progress_text(self._progress), no_wrap=True, overflow="ellipsis")
        bar_width = self._width - 1 - len(text) - 2  # the last column stays free: some terminals wrap if it is filled
        line = Table.grid(padding=(0, 2))
        if bar_width < 4:
            line.add_row(text)
        else:
            bar = ProgressBar(self._progress.total_steps, self._progress.step, width=min(bar_width, 30))
            line.add_row(bar, text)
        return line


class StepRate:
    """The recent rate of steps, as an exponential average. It adapts to other load, and to a run resumed midway."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Measure with `clock`, which returns seconds."""
        self._clock = clock
        self._last: tuple[float, int] | None = None
        self._steps = self._seconds = 0.0

    def update(self, step: int) -> None:
        """Add the time at which `step` steps are done."""
        now = self._clock()
        if self._last is not None:
            last_time, last_step = self._last
            elapsed_s = now - last_time
            decay = math.exp(-elapsed_s / RATE_WINDOW_S)
            self._steps = decay * self._steps + step - last_step
            self._seconds = decay * self._seconds + elapsed_s
        self._last = now, step

    def time_left_s(self, total_steps: int) -> float | None:
        """Return the seconds until the last step at the recent rate; `None` while the rate is unknown."""
        if self._last is None or self._steps <= 0:
            return None
        return (total_steps - self._last[1]) * self._seconds / self._steps
