"""Runs that are killed in the middle, for the tests of this room."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from resnetlab.config import RunConfig
from resnetlab.training.fit import fit
from resnetlab.training.run_files import checkpoint_manager
from resnetlab.training.runtime_options import RuntimeOptions


def in_a_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; return the signal that ended it, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def killed_at_step(config: RunConfig, out: Path, num_steps: int, options: RuntimeOptions) -> int:
    """Train in a child that is killed (kill -9) when `num_steps` steps are taken in it."""

    def work() -> None:
        taken = 0
        after_step = checkpoint_manager.CheckpointManager.after_step

        def count(self: checkpoint_manager.CheckpointManager, step: int) -> None:
            nonlocal taken
            taken += 1
            if taken == num_steps:
                os.kill(os.getpid(), signal.SIGKILL)
            after_step(self, step)

        checkpoint_manager.CheckpointManager.after_step = count
        fit(config, out, options=options)

    return in_a_child(work)
