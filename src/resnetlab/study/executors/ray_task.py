"""One run of a study as a Ray task, and the actor that collects the progress of all runs."""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from resnetlab.config import ConfigError, RunConfig
from resnetlab.system.dir_lock import LOCK

POLL_S = 0.2
"""Seconds between checks for a file."""
MARKER_TIMEOUT_S = 10.0
"""Seconds within which a new file must be visible on another machine."""
LOCK_TIMEOUT_S = 120.0
"""Seconds that a run waits for the lock of its folder: Linux's NFS server holds a lost machine's locks for 90 s."""
REPLY_TIMEOUT_S = 60.0
"""Seconds without a reply from the study after which a run ends itself."""

ProgressReport = tuple[int, int, float] | None
"""Step, total steps and training error in %; `None` when an attempt starts."""


def run_task(
    config: RunConfig,
    out: Path,
    *,
    cwd: Path,
    marker: Path,
    progress_actor: Any,
    task_index: int,
    checkpoint_s: float,
) -> str | None:
    """Execute one run on this machine of the cluster.

    Args:
        config: Configuration of the run.
        out: Directory of the run, on storage that all machines share.
        cwd: The study's working directory, since paths of data may be relative.
        marker: File that this machine must see, as a check that the storage is shared.
        progress_actor: Handle of the study's `ProgressActor`.
        task_index: Index of the run in the study.
        checkpoint_s: Seconds between checkpoints, at least.

    Returns:
        The cause of a failure, or `None` if the run has finished.

    Raises:
        ConfigError: if this machine does not see the study's folder.
    """
    from resnetlab.training.signal_handling import InterruptedRunError, StopSignal

    with StopSignal() as stop_signal:  # Ray cancels with SIGINT, and ends a machine's processes with SIGTERM
        if not _wait_for(marker):
            machine = os.uname().nodename
            raise ConfigError(
                f"{machine} does not see the study's {out.parent}; give a folder that all machines share with --out"
            )
        import ray
        import torch

        from resnetlab.training.fit import fit
        from resnetlab.training.runtime_options import RuntimeOptions

        with contextlib.suppress(OSError):
            os.chdir(cwd)
        threads = max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # no run measures numbers of threads beside the others
        callback = _progress_callback(progress_actor, task_index)
        with contextlib.suppress(Timeout, OSError), FileLock(out / LOCK, timeout=LOCK_TIMEOUT_S):
            pass  # a previous attempt that still writes has lost its machine, or ends itself at its next report
        options = RuntimeOptions(resume=True, checkpoint_s=checkpoint_s)
        try:
            fit(config, out, options=options, callbacks=[callback], stop_signal=stop_signal)
        except InterruptedRunError as stopped:
            if stopped.signum == signal.SIGTERM:
                os._exit(stopped.status)  # Ray retries the task on another machine
            return str(stopped)
        except Exception as error:
            return str(error) or type(error).__name__
    return None


def _progress_callback(progress_actor: Any, task_index: int) -> Any:
    """Return a callback that reports progress to the actor.

    It ends this process if a later attempt of the run has started on another machine.
    """
    import ray
    from ray.exceptions import RayError

    from resnetlab.training.callbacks import Callback
    from resnetlab.training.metrics import StepMetrics
    from resnetlab.training.trainer import Trainer

    attempt = ray.get(progress_actor.start_attempt.remote(task_index))

    class ProgressCallback(Callback):
        def __init__(self) -> None:
            self._pending: Any = None
            self._last_reply_s = time.monotonic()

        def on_step(self, trainer: Trainer, metrics: StepMetrics) -> None:
            if not (progress := metrics.progress):
                return
            if self._pending is not None and ray.wait([self._pending], timeout=0)[0]:
                with contextlib.suppress(RayError):
                    if not ray.get(self._pending):
                        os._exit(1)
                    self._last_reply_s = time.monotonic()
                self._pending = None
            if time.monotonic() - self._last_reply_s > REPLY_TIMEOUT_S and self._pending is not None:
                os._exit(1)
            if self._pending is None:
                report = (progress.step, progress.total_steps, progress.train_error_pct)
                self._pending = progress_actor.report.remote(task_index, attempt, report)

    return ProgressCallback()


class ProgressActor:
    """Actor that collects the progress of all runs; it runs on the study's own machine and is lost only with it."""

    def __init__(self) -> None:
        self._reports: list[tuple[int, ProgressReport]] = []
        self._attempts: dict[int, int] = {}

    def start_attempt(self, task_index: int) -> int:
        """Record the start of an attempt, the first or one after a lost machine; return its number, from 1."""
        self._attempts[task_index] = self._attempts.get(task_index, 0) + 1
        self._reports.append((task_index, None))
        return self._attempts[task_index]

    def report(self, task_index: int, attempt: int, progress: ProgressReport) -> bool:
        """Record the progress of an attempt; return `False` if a later attempt has started."""
        if attempt != self._attempts[task_index]:
            return False
        self._reports.append((task_index, progress))
        return True

    def drain(self) -> list[tuple[int, ProgressReport]]:
        """Return the reports since the last call, with the index of each task."""
        reports, self._reports = self._reports, []
        return reports


def _wait_for(path: Path) -> bool:
    """Wait until a file exists; return `False` on timeout."""
    deadline = time.monotonic() + MARKER_TIMEOUT_S
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
