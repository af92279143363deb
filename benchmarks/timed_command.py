"""Run a command as a user does, and note when it prints each line."""

import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 1800.0
"""Seconds after which a command that has not ended is killed."""


@dataclass(frozen=True)
class TimedCommand:
    """A command that has ended: its printed lines, time, memory and exit status."""

    lines: tuple[tuple[float, str], ...]
    """Seconds since the start, and the text, of each line on standard output or standard error."""
    time_s: float
    """Seconds from the start to the end."""
    peak_mib: float
    """Peak resident memory in MiB of the process, or of a descendant that needed more."""
    status: int
    """Exit status; negative for a signal."""

    def find(self, prefix: str) -> tuple[float, str] | None:
        """Return seconds and text of the first line that begins with `prefix`; `None` if there is none."""
        return next(((at_s, line) for at_s, line in self.lines if line.startswith(prefix)), None)

    def longest_silence(self) -> tuple[float, str]:
        """Return the longest time without a new line in seconds, and the line before it (empty at the start)."""
        edges_s = [0.0, *(at_s for at_s, _ in self.lines), self.time_s]
        texts = ["", *(line for _, line in self.lines)]
        gaps_s = [after - before for before, after in itertools.pairwise(edges_s)]
        return max(zip(gaps_s, texts, strict=True), key=lambda gap: gap[0])


def run_timed(command: Sequence[str], *, cwd: Path, env: Mapping[str, str], limit_s: float = LIMIT_S) -> TimedCommand:
    """Run a command to its end. Its output goes to a pipe; its input is empty."""
    start_s = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout
        with killed_after(process.pid, limit_s):
            lines = tuple((time.monotonic() - start_s, line.rstrip("\n")) for line in process.stdout)
            _, wait_status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(wait_status)
    return TimedCommand(lines, time.monotonic() - start_s, usage.ru_maxrss / 1024, process.returncode)


@contextmanager
def killed_after(pid: int, limit_s: float) -> Iterator[None]:
    """Kill a process that still runs after `limit_s` seconds in the context."""
    timer = threading.Timer(limit_s, os.kill, (pid, signal.SIGKILL))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
