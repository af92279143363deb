"""When to save, and what to do when it fails: the run goes on, the old checkpoint stays, and it is tried again."""

import time
from collections.abc import Callable
from pathlib import Path

from resnetlab.training.checkpoint import Checkpoint, save_checkpoint

SHARE = 0.01
"""Of the run's time, at most so much goes into saving at intervals of seconds."""


class UnsavedError(RuntimeError):
    """Something of a run could not be written; the message names it and says why."""


class CheckpointManager:
    """Saves a run's checkpoints at an interval."""

    def __init__(
        self,
        folder: Path | None,
        gather: Callable[[], Checkpoint],
        warn: Callable[[str], None],
        *,
        every_s: float,
        every_steps: int | None,
    ) -> None:
        """Save to `folder` (`None`: never) what `gather` returns; `warn` hears of failures.

        Every `every_steps` steps where given; else every `every_s` seconds, less often where a save takes long.
        """
        self._folder, self._gather, self._warn = folder, gather, warn
        self._every_s, self._every_steps = every_s, every_steps
        self._last_s = time.perf_counter()
        self._cost_s = 0.0
        self.problem: str | None = None
        """Why the last save failed; `None` where it did not."""

    def after_step(self, step: int) -> None:
        """Save where it is due; `step` counts the steps taken in the run."""
        if self._every_steps is not None:
            due = step % self._every_steps == 0
        else:
            due = time.perf_counter() - self._last_s >= max(self._every_s, self._cost_s / SHARE)
        if due:
            self.save()

    def save(self) -> None:
        """Save now; a failure is told, not raised."""
        if self._folder is None:
            return
        start_s = time.perf_counter()
        try:
            save_checkpoint(self._folder, self._gather())
        except OSError as error:
            self.problem = f"{self._folder}: the checkpoint cannot be saved ({error.strerror or error})"
            self._warn(f"{self.problem}; training goes on, the last good one stays, and it is tried again")
        else:
            self.problem = None
        self._last_s = time.perf_counter()
        self._cost_s = self._last_s - start_s

    def insist(self, otherwise: str) -> None:
        """Refuse to end well where the last save failed.

        Raises:
            UnsavedError: saying why, and what is there `otherwise`.
        """
        if self.problem:
            raise UnsavedError(f"{self.problem}; {otherwise}") from None
