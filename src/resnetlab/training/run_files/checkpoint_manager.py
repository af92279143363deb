"""When to save a checkpoint, and what a failed save does: the run goes on and the old checkpoint stays."""

import time
from collections.abc import Callable
from pathlib import Path

from resnetlab.training.run_files.checkpoint import Checkpoint, save_checkpoint

MAX_TIME_SHARE = 0.01
"""Share of the run's time that checkpoints at intervals of seconds may take."""


class UnsavedError(RuntimeError):
    """A file of a run could not be written; the message names it and the reason."""


class CheckpointManager:
    """Saves the checkpoints of a run at an interval."""

    def __init__(
        self,
        folder: Path | None,
        get_state: Callable[[], Checkpoint],
        warn: Callable[[str], None],
        *,
        every_s: float = 300.0,
        every_steps: int | None = None,
    ) -> None:
        """Save what `get_state` returns to `folder` (`None`: never), and report failures to `warn`.

        Save every `every_steps` steps if given; else every `every_s` seconds, less often if a save takes long.
        """
        self.folder, self._get_state, self._warn = folder, get_state, warn
        self._every_s, self._every_steps = every_s, every_steps
        self._last_s = time.perf_counter()
        self._cost_s = 0.0
        self.problem: str | None = None
        """The reason why the last save failed; `None` if it did not."""

    def after_step(self, step: int) -> None:
        """Save if a checkpoint is due; `step` is the number of steps taken in the run."""
        if self._every_steps is not None:
            due = step % self._every_steps == 0
        else:
            due = time.perf_counter() - self._last_s >= max(self._every_s, self._cost_s / MAX_TIME_SHARE)
        if due:
            self.save()

    def save(self) -> None:
        """Save now; report a failure as a warning instead of raising."""
        if self.folder is None:
            return
        start_s = time.perf_counter()
        try:
            save_checkpoint(self.folder, self._get_state())
        except OSError as error:
            self.problem = f"{self.folder}: the checkpoint cannot be saved ({error.strerror or error})"
            self._warn(f"{self.problem}; training goes on, the last good one stays, and the next save tries again")
        else:
            self.problem = None
        self._last_s = time.perf_counter()
        self._cost_s = self._last_s - start_s

    def raise_if_unsaved(self, consequence: str) -> None:
        """Raise if the last save failed; the message ends with the `consequence`.

        Raises:
            UnsavedError: naming the checkpoint folder and the reason.
        """
        if self.problem:
            raise UnsavedError(f"{self.problem}; {consequence}") from None
