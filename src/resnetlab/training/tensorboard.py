"""TensorBoard event files: the scalars of a run, written beside its record."""

import contextlib
import itertools
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from resnetlab.config import ConfigError
from resnetlab.training.callbacks import Callback
from resnetlab.training.metrics import StepMetrics

if TYPE_CHECKING:
    from resnetlab.training.trainer import Trainer

_numbers = itertools.count()


class MetricLogger(Callback):
    """Base class of metric loggers, and the one that logs nothing. Use it as a context manager."""

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Log values by name after `step` steps; `None` and values that are not finite are left out."""

    def close(self) -> None:
        """Close the logger; later values are not logged."""

    def on_step(self, trainer: "Trainer", metrics: StepMetrics) -> None:
        """Log each progress report."""
        if metrics.progress:
            self.scalars(metrics.step, metrics.progress.scalars())

    def on_epoch(self, trainer: "Trainer", line: Mapping[str, Any]) -> None:
        """Log the validation loss and error, and the mean average precision of several labels an image."""
        names = ("loss", "error_pct", "mean_average_precision_pct")
        self.scalars(line["step"], {f"val/{name}": line[f"val_{name}"] for name in names if f"val_{name}" in line})

    def __enter__(self) -> "MetricLogger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_logger(kind: str | None, out: Path, first_step: int, warn: Callable[[str], None]) -> MetricLogger:
    """Return the metric logger of a run.

    Args:
        kind: `None` for none, or `tensorboard`.
        out: The run directory; event files go to its folder `tensorboard`.
        first_step: Steps taken before; 0 for a new run. Later values of an earlier, interrupted process are discarded,
            since the run is about to log them again.
        warn: Called once if writing fails (a full disk); the run goes on without logging.

    Raises:
        ConfigError: if its package is not installed.
    """
    if kind is None:
        return MetricLogger()
    try:
        return TensorBoardWriter(out / "tensorboard", first_step, warn)
    except ImportError as error:
        raise ConfigError("--track tensorboard needs tensorboard: pip install 'resnetlab[track]'") from error


class TensorBoardWriter(MetricLogger):
    """Writes a TensorBoard event file; every value is on disk before `scalars` returns.

    PyTorch's `SummaryWriter` writes in a thread instead. When the disk is full that thread prints a traceback and dies,
    and a kill loses up to two minutes of values.
    """

    def __init__(self, folder: Path, first_step: int, warn: Callable[[str], None]) -> None:
        """Create a file in `folder`; see `open_logger`.

        Raises:
            ImportError: if tensorboard is not installed.
        """
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        events: Any = event_pb2  # its classes are created at run time, so type checkers do not know them
        summaries: Any = summary_pb2
        self._event, self._summary = events.Event, summaries.Summary
        self._warn = warn
        self._file: BinaryIO | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / file_name()).open("wb")
        except OSError as error:
            self._give_up(error)
            return
        self._records = RecordWriter(self._file)
        started = events.SessionLog(status=events.SessionLog.START)
        self._write(file_version="brain.Event:2")
        self._write(step=first_step + 1, session_log=started)  # discards this step and later ones

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Log values by name after `step` steps; `None` and values that are not finite are left out."""
        known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        if known:
            points = [self._summary.Value(tag=name, simple_value=value) for name, value in known.items()]
            self._write(step=step, summary=self._summary(value=points))

    def close(self) -> None:
        """Close the file; later values are not logged."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, **fields: Any) -> None:
        if self._file is None:
            return
        try:
            self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Warn, and stop writing: readers skip everything after half a value."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # it tries again to write its buffer
                file.close()
        self._warn(f"--track tensorboard: cannot write ({error.strerror}); the run goes on without logging")


def file_name() -> str:
    """Return a new name for an event file; TensorBoard recognises its prefix, and reads files in order of names."""
    host = socket.gethostname()
    return f"events.out.tfevents.{time.time():010.0f}.{host}.{os.getpid()}.{next(_numbers)}"
