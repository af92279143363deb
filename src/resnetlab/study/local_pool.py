"""Fill the cores with runs: one process a run, one thread a process. Needs no torch itself."""

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from resnetlab.config import RunConfig
from resnetlab.system.cores import usable_cores


@dataclass(frozen=True)
class RunTask:
    """A run to be made: what, and where."""

    config: RunConfig
    out: Path
    origin: int | None = None
    """Depth of the network that it starts from, where it is a deepened one."""


@dataclass(frozen=True)
class RunStarted:
    """A worker has taken a job."""

    job: RunTask


@dataclass(frozen=True)
class RunProgress:
    """A run says where it stands."""

    job: RunTask
    step: int
    total_steps: int
    train_error_pct: float


@dataclass(frozen=True)
class RunEnded:
    """A run is over; `error` says why it failed, or is `None`."""

    job: RunTask
    error: str | None


Event = RunStarted | RunProgress | RunEnded


def preload_torch() -> None:
    """Have the process that runs are forked from start loading PyTorch now, while the caller does something else."""
    if _context().get_start_method() != "forkserver":
        return
    # Ctrl-C is for the study, which stops its workers itself: the server starts with it held back, and then ignores it.
    multiprocessing.resource_tracker.ensure_running()  # before: where it has to start, it lets signals through again
    with defer_sigint():
        multiprocessing.forkserver.ensure_running()


@contextmanager
def defer_sigint() -> Generator[None]:
    """Let Ctrl-C wait, not be lost, while a process is started: half a start would leave a worker that complains.

    A handler of ours holds it back from this process, whose other threads may be handed it; the mask is for the process
    that is started, which inherits it.
    """
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if held:
        signal.raise_signal(signal.SIGINT)


def run_tasks(jobs: Sequence[RunTask], num_workers: int) -> Generator[Event]:
    """Run jobs, at most `num_workers` at once, in their order; yield what happens as it happens.

    Each run has a process of its own, so one that is killed takes no other with it. Closing the iterator early (an
    exception, Ctrl-C) stops the workers; finished runs stay.
    """
    preload_torch()
    context = _context()
    waiting = list(jobs)
    places = _places(num_workers)
    running: dict[Connection, tuple[RunTask, BaseProcess, int | None]] = {}
    try:
        while waiting or running:
            while waiting and places:
                job, core = waiting.pop(0), places.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_enter, args=(job.config, job.out, theirs, core), daemon=True)
                with defer_sigint():
                    process.start()
                    theirs.close()  # so that the pipe ends when the worker does
                    running[ours] = (job, process, core)
                yield RunStarted(job)
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                job, process, core = running[pipe]
                event = _next(pipe, job, process)
                if isinstance(event, RunEnded):
                    del running[pipe]
                    places.append(core)
                yield event
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.join()


def _next(pipe: Connection, job: RunTask, process: BaseProcess) -> Event:
    try:
        message = pipe.recv()
    except EOFError:  # it died without a word
        process.join()
        code = process.exitcode or 0
        killed = f"killed by signal {-code}" + (", perhaps for want of memory" if code == -9 else "")
        return RunEnded(job, killed if code < 0 else f"the worker left with exit status {code}")
    if isinstance(message, tuple):
        return RunProgress(job, *message)
    pipe.close()
    process.join()
    return RunEnded(job, message)


def _places(num_workers: int) -> list[int | None]:
    """Return a core of its own for each worker where they fill the machine, else `None` for each.

    A run has one thread; left to the scheduler, two of them on two cores ran about 10 % slower (docs/log.md).
    """
    if hasattr(os, "sched_setaffinity") and num_workers == usable_cores():
        return list(os.sched_getaffinity(0))
    return [None] * num_workers


def _enter(config: RunConfig, out: Path, pipe: Connection, core: int | None) -> None:
    from resnetlab.study.worker import run_task  # here, so that the study's own process never loads torch

    if core is not None:
        os.sched_setaffinity(0, {core})
    run_task(config, out, pipe)


def _context() -> ForkServerContext | SpawnContext:
    """Fork runs from a server that has loaded everything once; spawn them where forking is not to be had."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resnetlab.study.worker"])
    return context
