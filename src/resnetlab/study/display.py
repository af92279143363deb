"""What a person sees while a study runs: a live table in a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from resnetlab.study.grid import StudyPlan
from resnetlab.study.local_pool import Event, RunEnded, RunProgress, RunStarted, RunTask
from resnetlab.study.results import network_label, read_run

EPOCH_IMAGES = 1000
"""What an epoch is taken for, in images, before the data set is opened: of the order of digits."""


class StudyDisplay:
    """Show a study's events; use it as a context, so that the terminal is left tidy."""

    def __init__(self, console: Console) -> None:
        """Show on `console`: live where it is a terminal, a line a finished run where it is not."""
        self.console = console
        self._running: dict[RunTask, RunProgress | None] = {}
        self._total = 0
        self._ended = 0
        self._work_total = self._work_done = 0.0
        self._start = time.perf_counter()
        self._live = (
            Live(console=console, auto_refresh=False, get_renderable=self._table) if console.is_terminal else None
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

    def see(self, event: StudyPlan | Event) -> None:
        """Take in what happened and show it."""
        if isinstance(event, StudyPlan):
            self._total = len(event.jobs)
            self._work_total = sum(map(relative_cost, event.jobs))
            if event.num_reused:
                self.console.print(f"{event.num_reused} finished runs are there already and are reused")
            if event.jobs:
                self.console.print(f"{len(event.jobs)} runs to make; loading PyTorch takes a few seconds", style="dim")
        elif isinstance(event, RunStarted):
            self._running[event.job] = None
        elif isinstance(event, RunProgress):
            self._running[event.job] = event
        else:
            del self._running[event.job]
            self._ended += 1
            self._work_done += relative_cost(event.job)
            self.console.print(self._ended_line(event), highlight=False)
        if self._live:
            self._live.refresh()

    def time_left_s(self) -> float | None:
        """Return the estimated seconds until the study's last run ends, or `None` while nothing is known."""
        under_way = sum(
            relative_cost(job) * told.step / told.total_steps for job, told in self._running.items() if told
        )
        done = self._work_done + under_way
        if done < 0.01 * self._work_total:
            return None
        return (time.perf_counter() - self._start) * (self._work_total - done) / done

    def _ended_line(self, event: RunEnded) -> Text:
        count = f"[{self._ended:{len(str(self._total))}}/{self._total}] "
        if event.error is not None:
            begun = (event.job.out / "config.json").exists()
            how = "diverged" if begun and read_run(event.job.out).status == "diverged" else "failed"
            return Text(f"{count}{task_label(event.job)}: {how}, {event.error.partition(';')[0]}", style="red")
        result = read_run(event.job.out).result
        errors = f"train {result['train_error_pct']:5.2f} %  val {result['val_error_pct']:5.2f} %"
        left = "" if self._live else f", {time_text(self.time_left_s())} left"
        return Text(f"{count}{task_label(event.job):<18}  {errors}  {result['time_s']:.0f} s{left}")

    def _table(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for job, told in self._running.items():
            bar = ProgressBar(told.total_steps if told else 1, told.step if told else 0, width=20)
            where = f"step {told.step}/{told.total_steps}" if told else "starting"
            error = f"train {told.train_error_pct:5.1f} %" if told else ""
            table.add_row(task_label(job), bar, where, error)
        if not self._running:
            return Group()
        elapsed = time_text(time.perf_counter() - self._start)
        foot = f"{self._ended} of {self._total} runs, {elapsed} gone, {time_text(self.time_left_s())} left"
        return Group(table, Text(foot, style="dim"))


def relative_cost(job: RunTask) -> float:
    """Return a run's share of the study's work: depth times images seen, as far as the recipe tells."""
    recipe = job.config.recipe
    return job.config.model.depth * (recipe.steps * recipe.batch_size if recipe.steps else recipe.epochs * EPOCH_IMAGES)


def task_label(job: RunTask) -> str:
    """Return what a person calls a job: `plain-56 seed 0`."""
    return f"{network_label(job.config, job.origin)} seed {job.config.seed}"


def time_text(seconds: float | None) -> str:
    """Return a duration as people say it: `45 s`, `3 min 20 s`, `2 h 5 min`; `?` where it is not known."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
