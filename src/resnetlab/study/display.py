"""Progress display of a study: a live table in a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from resnetlab.study.executors.local_pool import Event, RunEnded, RunProgress, RunStarted, RunTask
from resnetlab.study.grid import StudyPlan
from resnetlab.study.results import network_label, read_run

EPOCH_IMAGES = 1000
"""Assumed number of images in an epoch before the data set is opened: the order of magnitude of digits."""


class StudyDisplay:
    """Display of a study's events. Use it as a context manager, so that it restores the terminal."""

    def __init__(self, console: Console) -> None:
        """Print to `console`: a live table if it is a terminal, otherwise one line for each finished run."""
        self.console = console
        self._running: dict[RunTask, RunProgress | None] = {}
        self._num_tasks = 0
        self._num_ended = 0
        self._total_cost = self._finished_cost = 0.0
        self._start = time.perf_counter()
        self._live = (
            Live(console=console, auto_refresh=False, get_renderable=self._render) if console.is_terminal else None
        )

    def __enter__(self) -> "StudyDisplay":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._running.clear()
        if self._live:
            self._live.refresh()
            self._live.stop()

    def update(self, event: StudyPlan | Event) -> None:
        """Update the display after an event."""
        if isinstance(event, StudyPlan):
            self._num_tasks = len(event.tasks)
            self._total_cost = sum(map(relative_cost, event.tasks))
            if event.num_reused:
                self.console.print(f"{event.num_reused} finished runs are reused")
            if event.tasks:
                self.console.print(f"{len(event.tasks)} runs to make; loading PyTorch takes a few seconds", style="dim")
        elif isinstance(event, RunStarted):
            self._running[event.task] = None
        elif isinstance(event, RunProgress):
            self._running[event.task] = event
        else:
            del self._running[event.task]
            self._num_ended += 1
            self._finished_cost += relative_cost(event.task)
            self.console.print(self._ended_line(event), highlight=False)
        if self._live:
            self._live.refresh()

    def time_left_s(self) -> float | None:
        """Return the estimated seconds until the last run ends, or `None` before the first progress."""
        running_cost = sum(
            relative_cost(task) * progress.step / progress.total_steps
            for task, progress in self._running.items()
            if progress
        )
        done = self._finished_cost + running_cost
        if done < 0.01 * self._total_cost:
            return None
        return (time.perf_counter() - self._start) * (self._total_cost - done) / done

    def _ended_line(self, event: RunEnded) -> Text:
        count = f"[{self._num_ended:{len(str(self._num_tasks))}}/{self._num_tasks}] "
        if event.error is not None:
            has_config = (event.task.out / "config.json").exists()
            status = "diverged" if has_config and read_run(event.task.out).status == "diverged" else "failed"
            return Text(f"{count}{task_label(event.task)}: {status}, {event.error.partition(';')[0]}", style="red")
        result = read_run(event.task.out).result
        errors = f"train {result['train_error_pct']:5.2f} %  val {result['val_error_pct']:5.2f} %"
        left = "" if self._live else f", {time_text(self.time_left_s())} left"
        return Text(f"{count}{task_label(event.task):<18}  {errors}  {result['time_s']:.0f} s{left}")

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for task, progress in self._running.items():
            bar = ProgressBar(progress.total_steps if progress else 1, progress.step if progress else 0, width=20)
            step = f"step {progress.step}/{progress.total_steps}" if progress else "starting"
            error = f"batch {progress.train_error_pct:5.1f} %" if progress else ""
            table.add_row(task_label(task), bar, step, error)
        if not self._running:
            return Group()
        elapsed = time_text(time.perf_counter() - self._start)
        left = time_text(self.time_left_s())
        footer = f"{self._num_ended} of {self._num_tasks} runs, {elapsed} elapsed, {left} left"
        return Group(table, Text(footer, style="dim"))


def relative_cost(task: RunTask) -> float:
    """Return the relative cost of a run, for time estimates: depth times the number of images it trains on."""
    recipe = task.config.recipe
    images = recipe.steps * recipe.batch_size if recipe.steps else recipe.epochs * EPOCH_IMAGES
    return task.config.depth * images


def task_label(task: RunTask) -> str:
    """Return the name of a task for display: `plain-56 seed 0`."""
    return f"{network_label(task.config, task.deepened_from)} seed {task.config.seed}"


def time_text(seconds: float | None) -> str:
    """Return a duration for display: `45 s`, `3 min 20 s`, `2 h 5 min`; `?` for `None`."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
