"""The user's own blocks, optimizers, schedules and augmentations in the worker processes of a study.

A worker imports the script that started the study, but nothing else of it. So each worker gets what is registered,
pickled by name. What cannot be pickled so, such as a class of a notebook, runs in the study's own process.
"""

import os
import pickle
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from resnetlab.extension import AUGMENTATIONS, OPTIMIZERS, SCHEDULES
from resnetlab.study.executors.local_pool import Event, RunEnded, RunStarted, RunTask

REGISTRIES = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "augmentation": AUGMENTATIONS}


class OwnCode(NamedTuple):
    """A class or function that the user has registered."""

    kind: str
    name: str
    code: Any


def registered_code() -> list[OwnCode]:
    """Return everything that is registered from outside this package."""
    found = [OwnCode(kind, name, code) for kind, names in REGISTRIES.items() for name, code in names.defined().items()]
    if "resnetlab.models.block_registry" in sys.modules:  # else nothing was registered, and PyTorch may not be loaded
        from resnetlab.models.block_registry import BLOCKS

        found += [OwnCode("block", name, block) for name, block in BLOCKS.items()]
    return [own for own in found if not own.code.__module__.startswith("resnetlab.")]


def register_code(codes: Sequence[OwnCode]) -> None:
    """Register what another process has registered, except names that this process has already."""
    from resnetlab.models.block_registry import BLOCKS, register_block

    for own in codes:
        if own.kind == "block" and own.name not in BLOCKS:
            register_block(own.name, own.code)
        elif own.kind != "block" and own.name not in REGISTRIES[own.kind].defined():
            REGISTRIES[own.kind].register(own.name, own.code)


def can_reach_workers(codes: Sequence[OwnCode]) -> bool:
    """Return whether another process can import all of this code."""
    main_has_file = hasattr(sys.modules["__main__"], "__file__")
    for own in codes:
        if own.code.__module__ == "__main__" and not main_has_file:  # a notebook, or an interactive session
            return False
        try:
            pickle.dumps(own.code)
        except (pickle.PicklingError, AttributeError, TypeError):
            return False
    return True


def run_here(tasks: Sequence[RunTask]) -> Generator[Event]:
    """Execute tasks one after the other in this process, and yield their events.

    Each has one thread, as in a worker: another number of threads adds in another order, and would choose another
    execution. Between the events the process has its own number.
    """
    from resnetlab.training.fit import fit
    from resnetlab.training.runtime_options import RuntimeOptions

    for task in tasks:
        yield RunStarted(task)
        error = None
        try:
            with _one_thread():
                fit(task.config, task.out, options=RuntimeOptions(resume=True))
        except Exception as failure:  # recorded by the run; the others continue
            error = str(failure) or type(failure).__name__
        yield RunEnded(task, error)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Give PyTorch one thread for the body, and let no run measure another number (`OMP_NUM_THREADS`)."""
    import torch

    from resnetlab.training.execution.execution import kept_threads

    before = os.environ.get("OMP_NUM_THREADS")
    with kept_threads():
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = before
