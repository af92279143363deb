"""What a worker process of a study does: one run, one thread. Importing this module loads all that a run needs."""

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import sklearn.datasets
import sklearn.model_selection  # noqa: F401  # loaded here once, so that every forked run finds them
import torch

from resnetlab.config import RunConfig
from resnetlab.system.allocator import use_huge_pages
from resnetlab.training.callbacks import Callback, Progress
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError, StopSignal
from resnetlab.training.trainer import fit

torch.optim.SGD([torch.zeros(1)])  # PyTorch loads another second's worth of modules at the first optimiser


def run_task(config: RunConfig, out: Path, pipe: Connection) -> None:
    """Run one configuration into `out`, telling its progress through `pipe`, then `None` or what went wrong."""
    torch.set_num_threads(1)
    use_huge_pages()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the study, which stops its workers
    try:
        with StopSignal((signal.SIGTERM,)) as interruption:
            fit(
                config,
                out,
                session=RuntimeOptions(resume=True),
                listener=_ProgressSender(pipe),
                interruption=interruption,
            )
    except InterruptedRunError as stopped:  # the study stops: what was done is saved
        raise SystemExit(stopped.status) from None
    except Exception as error:
        pipe.send(f"{error}" or type(error).__name__)
        raise SystemExit(1) from None
    pipe.send(None)


class _ProgressSender(Callback):
    """Sends a run's progress to the study."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def see(self, progress: Progress) -> None:
        try:
            self._pipe.send((progress.step, progress.total_steps, progress.train_error_pct))
        except OSError:
            os._exit(1)  # nobody listens: the study was killed, and an unfinished run is how it should look
