"""`resnetlab` under torchrun, with something that happens to one of its processes at one step.

faulty.py WHAT RANK STEP WORDS…: WHAT is a signal's name, `late-` and one for just after the processes have agreed on
the step, `nan`, or `full`: from then on no file can grow. It happens in the first attempt only.
"""

import os
import resource
import signal
import sys

from resnetlab.cli.main import main
from resnetlab.training.grad_sync import BatchStats, GradSync

WHAT, RANK, STEP = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
agree = GradSync.agree
steps = 0


def agree_or_not(self: GradSync, part: BatchStats) -> BatchStats:
    global steps
    steps += 1
    mine = int(os.environ["RANK"]) == RANK and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if mine and steps == STEP:
        if WHAT == "nan":
            part.loss_sum = float("nan")
        elif WHAT == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        elif not WHAT.startswith("late-"):
            os.kill(os.getpid(), signal.Signals[WHAT])
    agreed = agree(self, part)
    if mine and steps == STEP and WHAT.startswith("late-"):
        os.kill(os.getpid(), signal.Signals[WHAT.removeprefix("late-")])
    return agreed


GradSync.agree = agree_or_not  # pyright: ignore[reportAttributeAccessIssue]
raise SystemExit(main(sys.argv[4:]))
