"""The progress of a download on standard error: a bar in a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType

from resnetlab.system.proxied_streams import innermost_stream

PLAIN_INTERVAL_S = 10.0
"""Seconds between two plain lines."""


def size_text(num_bytes: float) -> str:
    """Return the size of a download, such as `44.7 MiB`."""
    return f"{num_bytes / 2**20:,.1f} MiB"


class DownloadProgress:
    """Prints the progress of one file; call it with the bytes that are there, and the size if it is known."""

    def __init__(self, description: str) -> None:
        """Name the file and its address in `description`."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(file=innermost_stream(sys.stderr), markup=False)
        columns = (BarColumn(), TextColumn("{task.description}", markup=False), TimeRemainingColumn())
        self._description, self._announced, self._next_line_s = description, False, 0.0
        self._bar = (
            Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
            if console.is_terminal
            else None
        )
        self._task = None if self._bar is None else self._bar.add_task("", total=None)

    def __enter__(self) -> "DownloadProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int | None) -> None:
        """Print the state of the download."""
        if not self._announced:
            size = "" if total is None else f" ({size_text(total)})"
            rest = f", from {size_text(done)} on" if done else ""
            self._print(f"downloading {self._description}{size}{rest}")
            self._announced, self._next_line_s = True, time.monotonic() + PLAIN_INTERVAL_S
            if self._bar is not None:
                self._bar.start()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, description=_state(done, total))
        elif time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + PLAIN_INTERVAL_S
            self._print(_state(done, total))

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _state(done: int, total: int | None) -> str:
    return size_text(done) if total is None else f"{size_text(done).removesuffix(' MiB')} of {size_text(total)}"
