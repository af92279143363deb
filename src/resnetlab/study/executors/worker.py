"""Worker process of a study: one run in one thread. Importing this module loads everything that a run needs."""

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import sklearn.datasets
import sklearn.model_selection  # noqa: F401  # loaded once, before runs are forked
import torch

from resnetlab.config import RunConfig
from resnetlab.system.allocator import use_huge_pages
from resnetlab.training.callbacks import Callback
from resnetlab.training.fit import fit
from resnetlab.training.metrics import StepMetrics
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import HANDLED_SIGNALS, InterruptedRunError, StopSignal
from resnetlab.training.trainer import Trainer

torch.optim.SGD([torch.zeros(1)])  # the first optimiser makes PyTorch load more modules, for about a second


def run_task(config: RunConfig, out: Path, pipe: Connection) -> None:
    """Execute one run into `out`; send its progress through `pipe`, then `None` or the cause of a failure."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # no run measures numbers of threads: beside the other runs they would mislead
    use_huge_pages()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the study, which stops its workers
    try:
        with StopSignal(tuple(signum for signum in HANDLED_SIGNALS if signum != signal.SIGINT)) as stop_signal:
            fit(
                config,
                out,
                options=RuntimeOptions(resume=True),
                callbacks=[_ProgressSender(pipe)],
                stop_signal=stop_signal,
            )
    except InterruptedRunError as stopped:  # the study stops; a checkpoint has been saved
        raise SystemExit(stopped.status) from None
    except Exception as error:
        pipe.send(f"{error}" or type(error).__name__)
        raise SystemExit(1) from None
    pipe.send(None)


class _ProgressSender(Callback):
    """Callback that sends a run's progress to the study."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def on_step(self, trainer: Trainer, metrics: StepMetrics) -> None:
        if not (progress := metrics.progress):
            return
        try:
            self._pipe.send((progress.step, progress.total_steps, progress.train_error_pct))
        except OSError:
            os._exit(1)  # the study was killed; the record must end as that of an unfinished run
