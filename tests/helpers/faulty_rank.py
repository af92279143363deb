"""Run `resnetlab` under torchrun, with a fault in one process at one step.

faulty_rank.py FAULT RANK STEP WORDS…: FAULT is the name of a signal, `late-` and the name of a signal (sent just after
the processes have reduced the step), `nan`, or `full` (no file can grow from then on). It happens in the first attempt.
"""

import os
import resource
import signal
import sys

from resnetlab.cli.main import main
from resnetlab.training.grad_sync import BatchStats, GradSync

FAULT, RANK, STEP = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
reduce = GradSync.reduce
steps = 0


def faulty_reduce(self: GradSync, local: BatchStats) -> BatchStats:
    global steps
    steps += 1
    mine = int(os.environ["RANK"]) == RANK and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if mine and steps == STEP:
        if FAULT == "nan":
            local.loss_sum = float("nan")
        elif FAULT == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        elif not FAULT.startswith("late-"):
            os.kill(os.getpid(), signal.Signals[FAULT])
    reduced = reduce(self, local)
    if mine and steps == STEP and FAULT.startswith("late-"):
        os.kill(os.getpid(), signal.Signals[FAULT.removeprefix("late-")])
    return reduced


GradSync.reduce = faulty_reduce
raise SystemExit(main(sys.argv[4:]))
