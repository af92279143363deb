"""What a machine of a Ray cluster does for a study: one run, and telling how far it is."""

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
"""Seconds between looks for a file."""
SHARED_S = 10.0
"""Seconds in which a new file must be seen on another machine."""
CLAIM_S = 120.0
"""Seconds that a run waits for its folder: Linux' NFS server holds the locks of a lost machine for 90."""
SILENCE_S = 60.0
"""Seconds after which a run whose study does not answer takes itself for lost."""

Word = tuple[int, int, float] | None
"""What a run tells: step, steps in all, training error in %; `None` that it begins."""


def run_task(
    config: RunConfig, out: Path, here: Path, token: Path, desk: Any, name: int, checkpoint_s: float
) -> str | None:
    """Make one run, on whatever machine this is; return what went wrong, or `None`.

    Raises:
        ConfigError: where this machine does not see the study's folder.
    """
    from resnetlab.training.signal_handling import InterruptedRunError, StopSignal

    with StopSignal() as interruption:  # Ray cancels by SIGINT, and ends a machine's processes by SIGTERM
        if not _appears(token):
            machine = os.uname().nodename
            raise ConfigError(f"{machine} does not see the study's {out.parent}; --out is a folder all machines share")
        import ray
        import torch

        from resnetlab.training.runtime_options import RuntimeOptions
        from resnetlab.training.trainer import fit

        with contextlib.suppress(OSError):
            os.chdir(here)  # paths of data may be relative
        torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
        teller = _teller(desk, name)
        with contextlib.suppress(Timeout, OSError), FileLock(out / LOCK, timeout=CLAIM_S):
            pass  # whoever still writes there is lost, or will hear that the run is not its own any more
        session = RuntimeOptions(resume=True, checkpoint_s=checkpoint_s)
        try:
            fit(config, out, session=session, listener=teller, interruption=interruption)
        except InterruptedRunError as stopped:
            if stopped.signum == signal.SIGTERM:
                os._exit(stopped.status)  # Ray tries it again elsewhere
            return str(stopped)
        except Exception as error:
            return str(error) or type(error).__name__
    return None


def _teller(desk: Any, name: int) -> Any:
    """Return a listener that tells `desk`, and ends the process where the run has gone on elsewhere without it."""
    import ray
    from ray.exceptions import RayError

    from resnetlab.training.callbacks import Callback, Progress

    attempt = ray.get(desk.begin.remote(name))

    class Teller(Callback):
        def __init__(self) -> None:
            self._asked: Any = None
            self._answered_s = time.monotonic()

        def see(self, progress: Progress) -> None:
            if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
                with contextlib.suppress(RayError):
                    if not ray.get(self._asked):
                        os._exit(1)
                    self._answered_s = time.monotonic()
                self._asked = None
            if time.monotonic() - self._answered_s > SILENCE_S and self._asked is not None:
                os._exit(1)
            if self._asked is None:
                word = (progress.step, progress.total_steps, progress.train_error_pct)
                self._asked = desk.tell.remote(name, attempt, word)

    return Teller()


class ProgressActor:
    """Where runs tell how far they are; an actor on the study's own machine, which is lost only with the study."""

    def __init__(self) -> None:
        self._told: list[tuple[int, Word]] = []
        self._attempts: dict[int, int] = {}

    def begin(self, name: int) -> int:
        """Take in that a run begins, anew where its machine was lost; return which attempt this is, from 1."""
        self._attempts[name] = self._attempts.get(name, 0) + 1
        self._told.append((name, None))
        return self._attempts[name]

    def tell(self, name: int, attempt: int, word: Word) -> bool:
        """Take in where a run stands; return `False` where a later attempt has begun."""
        if attempt != self._attempts[name]:
            return False
        self._told.append((name, word))
        return True

    def take(self) -> list[tuple[int, Word]]:
        """Hand on what was told since the last time."""
        told, self._told = self._told, []
        return told


def _appears(path: Path) -> bool:
    until = time.monotonic() + SHARED_S
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True
