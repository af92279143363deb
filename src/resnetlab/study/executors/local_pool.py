"""Process pool of a study on one machine: one process for each run, one thread for each process."""

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
from typing import Any

from resnetlab.config import RunConfig, block_properties
from resnetlab.system.cores import usable_cores


@dataclass(frozen=True)
class RunTask:
    """A run to execute: its configuration and its directory."""

    config: RunConfig
    out: Path
    deepened_from: int | None = None
    """Depth of the network that identity blocks are inserted into; `None` for a run from random weights."""


@dataclass(frozen=True)
class RunStarted:
    """Event: a worker has started a task."""

    task: RunTask


@dataclass(frozen=True)
class RunProgress:
    """Event: a run has taken some more steps."""

    task: RunTask
    step: int
    total_steps: int
    train_error_pct: float


@dataclass(frozen=True)
class RunEnded:
    """Event: a run has ended."""

    task: RunTask
    error: str | None
    """Cause of the failure, or `None` if the run has finished."""


Event = RunStarted | RunProgress | RunEnded


def preload_torch() -> None:
    """Start the fork server, which loads PyTorch while the caller does something else."""
    if _context().get_start_method() != "forkserver":
        return
    # Ctrl-C is for the study, which stops its workers itself. The server starts with SIGINT blocked, and then ignores
    # it. The resource tracker must start before: its start unblocks signals.
    multiprocessing.resource_tracker.ensure_running()
    with defer_sigint():
        multiprocessing.forkserver.ensure_running()


@contextmanager
def defer_sigint() -> Generator[None]:
    """Deliver Ctrl-C only after the block, which starts a process: a half-started worker would print a traceback.

    The handler defers the signal in this process, whose other threads may receive it. The mask is for the new process,
    which inherits it.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    received: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if received:
        signal.raise_signal(signal.SIGINT)


def run_tasks(tasks: Sequence[RunTask], num_workers: int, own_code: Sequence[Any] = ()) -> Generator[Event]:
    """Execute tasks in order, at most `num_workers` at once, and yield their events.

    Each worker registers `own_code` (`own_code.registered_code`) first.

    Each run has its own process, so a killed run does not affect the others. Closing the iterator early (an exception,
    Ctrl-C) stops the workers; finished runs remain.
    """
    preload_torch()
    context = _context()
    waiting = list(tasks)
    free_cores = _worker_cores(num_workers)
    running: dict[Connection, tuple[RunTask, BaseProcess, int | None]] = {}
    try:
        while waiting or running:
            while waiting and free_cores:
                task, core = waiting.pop(0), free_cores.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_run_in_worker, args=(task.config, task.out, sender, core, own_code), daemon=True
                )
                with defer_sigint():
                    process.start()
                    sender.close()  # so that the pipe reports EOF when the worker ends
                    running[receiver] = (task, process, core)
                yield RunStarted(task)
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                task, process, core = running[pipe]
                event = _receive_event(pipe, task, process)
                if isinstance(event, RunEnded):
                    del running[pipe]
                    free_cores.append(core)
                yield event
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.join()


def _receive_event(pipe: Connection, task: RunTask, process: BaseProcess) -> Event:
    try:
        message = pipe.recv()
    except EOFError:  # the worker ended without a message
        process.join()
        code = process.exitcode or 0
        killed = f"killed by signal {-code}" + (", possibly out of memory" if code == -9 else "")
        return RunEnded(task, killed if code < 0 else f"the worker exited with status {code}")
    if isinstance(message, tuple):
        step, total_steps, train_error_pct = message
        return RunProgress(task, step=step, total_steps=total_steps, train_error_pct=train_error_pct)
    pipe.close()
    process.join()
    return RunEnded(task, message)


def _worker_cores(num_workers: int) -> list[int | None]:
    """Return one core for each worker if the workers fill the machine, else `None` for each: any core.

    A run has one thread. Without pinning, two runs on two cores were about 10 % slower (docs/log.md).
    """
    if hasattr(os, "sched_setaffinity") and num_workers == usable_cores():
        return list(os.sched_getaffinity(0))
    return [None] * num_workers


def _run_in_worker(config: RunConfig, out: Path, pipe: Connection, core: int | None, own_code: Sequence[Any]) -> None:
    from resnetlab.study.executors.own_code import register_code
    from resnetlab.study.executors.worker import run_task  # not at the top: the study's own process must not load torch

    register_code(own_code)
    block_properties(config.model.block)  # loads the installed packages that extend this one if it is theirs
    if core is not None:
        os.sched_setaffinity(0, {core})
    run_task(config, out, pipe)


def _context() -> ForkServerContext | SpawnContext:
    """Return a context that forks runs from a server with everything loaded, or spawns them if there is no fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resnetlab.study.executors.worker"])
    return context
