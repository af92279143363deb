"""What a person sees while one run trains: a live line in a terminal, a plain line now and then elsewhere."""

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

from resnetlab.study.display import time_text
from resnetlab.training.callbacks import Callback
from resnetlab.training.metrics import Progress, StepMetrics

if TYPE_CHECKING:
    from resnetlab.training.trainer import Trainer

PLAIN_EVERY_S = 10.0
"""Seconds between plain lines, at least."""

MEMORY_S = 120.0
"""Over how many seconds the speed is averaged that the time left follows from: some epochs with their validation."""

WIDTH = 80
"""Columns a line takes at most."""


class TrainDisplay(Callback):
    """Show how one run goes; use it as a context, so that the terminal is left tidy."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """Show on `console`: live where it is a terminal, plain lines where it is not. `clock` counts seconds."""
        self.console = console
        self.speed = StepRate(clock)
        self._clock = clock
        self._last: Progress | None = None
        self._next_plain_s = -math.inf
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
        self._last = None
        if self._live:
            self._live.refresh()
            self._live.stop()

    def on_start(self, trainer: "Trainer") -> None:
        """Print the resolved configuration; long lines are wrapped."""
        for line in trainer.describe():
            self._print(Text(line))

    def on_step(self, trainer: "Trainer", metrics: StepMetrics) -> None:
        """Display the progress of the step, if it has a report."""
        if metrics.progress:
            self.show_progress(metrics.progress)

    def show_progress(self, progress: Progress) -> None:
        """Display a report: at once in a terminal, else the first, the last and one in 10 s."""
        self.speed.see(progress.step)
        self._last = progress
        if self._live:
            self._live.refresh()
            return
        done = progress.step >= progress.total_steps
        if done or self._clock() >= self._next_plain_s:
            self._next_plain_s = self._clock() + PLAIN_EVERY_S
            self._print(Text(f"step {self._words(progress)}"))

    def on_epoch(self, trainer: "Trainer | None", line: Mapping[str, Any]) -> None:
        """Print the record's `epoch` line; values that are missing or `None` are left out."""
        parts = (
            ("epoch", "epoch {:>3}"),
            ("train_error_pct", "train error {:5.1f} %"),
            ("val_error_pct", "val error {:5.1f} %"),
            ("lr", "lr {:.4g}"),
        )
        known = [form.format(line[key]) for key, form in parts if line.get(key) is not None]
        if line.get("time_s") is not None:
            known.append(time_text(line["time_s"]))
        self._print(Text("  ".join(known)))

    def on_warning(self, trainer: "Trainer | None", message: str) -> None:
        """Print a warning; long lines are wrapped."""
        self._print(Text(f"warning: {message}", style="yellow"))

    def _print(self, text: Text) -> None:
        self.console.print(text, highlight=False, width=self._width)

    @property
    def _width(self) -> int:
        return min(WIDTH, self.console.width)

    def _words(self, progress: Progress, error: str = "train error") -> str:
        parts = [
            f"{progress.step:,}/{progress.total_steps:,}",
            f"{error} {progress.train_error_pct:.1f} %".strip(),
            f"{progress.images_per_s:,.0f} images/s",
        ]
        left_s = self.speed.time_left_s(progress.total_steps)
        if left_s is not None and progress.step < progress.total_steps:
            parts.append(f"{time_text(left_s)} left")
        return "  ".join(parts)

    def _live_line(self) -> Group | Table:
        if self._last is None:
            return Group()
        words = Text(self._words(self._last, error="error"), no_wrap=True, overflow="ellipsis")
        room = self._width - 1 - len(words) - 2  # a last column left free: some terminals wrap when it is filled
        line = Table.grid(padding=(0, 2))
        if room < 4:
            line.add_row(words)
        else:
            bar = ProgressBar(self._last.total_steps, self._last.step, width=min(room, 30))
            line.add_row(bar, words)
        return line


class StepRate:
    """Steps a second of late: a run that was resumed starts in the middle, and machines get other work."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Measure with `clock`, in seconds."""
        self._clock = clock
        self._seen: tuple[float, int] | None = None
        self._steps = self._seconds = 0.0

    def see(self, step: int) -> None:
        """Take in that so many steps are done; what is long ago fades away."""
        now = self._clock()
        if self._seen is not None:
            gone_s = now - self._seen[0]
            fade = math.exp(-gone_s / MEMORY_S)
            self._steps = fade * self._steps + step - self._seen[1]
            self._seconds = fade * self._seconds + gone_s
        self._seen = now, step

    def time_left_s(self, total_steps: int) -> float | None:
        """Return the seconds until the last step is done at the recent speed, or `None` while nothing is known."""
        if self._seen is None or self._steps <= 0:
            return None
        return (total_steps - self._seen[1]) * self._seconds / self._steps
