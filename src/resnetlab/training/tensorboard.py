"""Tell a tracking tool how a run goes: numbers a step, beside the record, for those who watch runs in TensorBoard."""

import contextlib
import itertools
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from resnetlab.config import ConfigError

KINDS = ("tensorboard",)

_numbers = itertools.count()


class MetricLogger:
    """Takes numbers and keeps none: what a run has that nobody tracks. Use it as a context."""

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Note the values, by name, as they are after `step` steps; `None` and what is not finite is left out."""

    def close(self) -> None:
        """Finish; what comes later is not noted."""

    def __enter__(self) -> "MetricLogger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_logger(kind: str | None, out: Path, first_step: int, warn: Callable[[str], None]) -> MetricLogger:
    """Return what a run tells its numbers to.

    Args:
        kind: `None` for nothing, or one of `KINDS`.
        out: The run directory; TensorBoard's event files go to its folder `tensorboard`.
        first_step: Steps taken before; 0 for a new run. Of what an earlier, interrupted process noted, everything
            after that many steps is taken back: it is about to be noted again.
        warn: Told once, in one line, when writing fails (a full disk). The run goes on, and is tracked no further.

    Raises:
        ConfigError: for an unknown kind, or where its package is not installed.
    """
    if kind is None:
        return MetricLogger()
    if kind not in KINDS:
        raise ConfigError(f"--track {kind} is unknown; known: {', '.join(KINDS)}")
    try:
        return TensorBoardWriter(out / "tensorboard", first_step, warn)
    except ImportError as error:
        raise ConfigError("--track tensorboard needs tensorboard: pip install 'resnetlab[track]'") from error


class TensorBoardWriter(MetricLogger):
    """Writes a TensorBoard event file; every number is on disk before `scalars` returns.

    Not by PyTorch's `SummaryWriter`: that one writes in a thread, which prints a traceback and dies when the disk is
    full, and keeps numbers for up to two minutes, which a kill takes along.
    """

    def __init__(self, folder: Path, first_step: int, warn: Callable[[str], None]) -> None:
        """Start a file in `folder`; see `open_logger`.

        Raises:
            ImportError: where tensorboard is not installed.
        """
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        events: Any = event_pb2  # its classes are made at run time: no type checker knows them
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
        self._write(step=first_step + 1, session_log=started)  # takes back this step and those after it

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Note the values, by name, as they are after `step` steps; `None` and what is not finite is left out."""
        known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        if known:
            points = [self._summary.Value(tag=name, simple_value=value) for name, value in known.items()]
            self._write(step=step, summary=self._summary(value=points))

    def close(self) -> None:
        """Finish the file; what comes later is not noted."""
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
        """Say so, and write no more: after half a number a reader finds nothing."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # it tries again to write what it holds
                file.close()
        self._warn(f"--track tensorboard: cannot write ({error.strerror}); the run goes on and is tracked no further")


def file_name() -> str:
    """Return a new name for an event file; TensorBoard knows them by their start, and reads them in this order."""
    host = socket.gethostname()
    return f"events.out.tfevents.{time.time():010.0f}.{host}.{os.getpid()}.{next(_numbers)}"
