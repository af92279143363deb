"""Executor of a study on a Ray cluster: each run is a task, which resumes from its checkpoint if its machine is lost.

Events, run directories and records are the same as with `local_pool`. The study's folder must be on storage that every
machine sees under the same path, because a moved run reads its checkpoint there.

Ray runs in a process of its own, the driver (`_run_driver`). Ray writes to standard output at will, and it ends its
process if its own services are lost. The study receives events from the driver through a pipe.
"""

import contextlib
import logging
import multiprocessing
import os
import secrets
import signal
import socket
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from resnetlab.config import ConfigError
from resnetlab.study.executors.local_pool import Event, RunEnded, RunProgress, RunStarted, RunTask, defer_sigint
from resnetlab.study.executors.ray_task import ProgressActor, run_task
from resnetlab.system.cores import usable_cores

RETRIES = 5
"""Number of lost machines after which a run fails."""
CONNECT_TIMEOUT_S = 60.0
"""Seconds within which a cluster must accept the driver."""
SOCKET_TIMEOUT_S = 10.0
"""Seconds within which the cluster's address must accept a connection."""
POLL_S = 0.2
"""Seconds between requests for the progress of runs."""
GRACE_S = 15.0
"""Seconds that runs have for a last checkpoint when the study is stopped."""
CHECKPOINT_S = 30.0
"""Seconds between checkpoints, at least: a machine may be lost at any time."""
STOP = "stop"
RAY_ENDED = "Ray has ended on this machine; checkpoints remain, and the same command continues"


def run_tasks(
    tasks: Sequence[RunTask],
    address: str | None = None,
    *,
    cpus: float = 1,
    gpus: float = 0,
    checkpoint_s: float = CHECKPOINT_S,
) -> Generator[Event]:
    """Execute tasks on a Ray cluster, as many at once as it has room for, and yield their events.

    A second `RunStarted` of a task means that the run lost its machine and resumes on another. Closing the iterator
    early stops the runs; each saves a checkpoint first.

    Args:
        tasks: The runs to execute.
        address: HOST:PORT, or `auto` for the cluster of this machine. If not given, RAY_ADDRESS is used, or else a
            cluster of this machine alone is started.
        cpus: CPUs that each task reserves.
        gpus: GPUs that each task reserves.
        checkpoint_s: Seconds between checkpoints, at least.

    Raises:
        ConfigError: if Ray is not installed, no cluster answers, no machine is large enough, or a machine does not see
            the folder of the runs.
        RuntimeError: if Ray ends while runs are in progress.
    """
    if not tasks:
        return
    context = multiprocessing.get_context("spawn")
    pipe, driver_pipe = context.Pipe()
    address = address or os.environ.get("RAY_ADDRESS")
    process = context.Process(
        target=_run_driver, args=(driver_pipe, tasks, address, cpus, gpus, checkpoint_s), daemon=True
    )
    with defer_sigint():
        process.start()
        driver_pipe.close()  # so that the pipe reports EOF when the driver ends
    try:
        if not pipe.poll(CONNECT_TIMEOUT_S) or _receive(pipe) is None:
            process.kill()
            raise ConfigError(f"no Ray cluster answers at {address or 'this machine'}")
        while isinstance(event := _receive(pipe), Event):
            yield event
        if event is None:
            raise RuntimeError(RAY_ENDED)
    finally:
        with contextlib.suppress(OSError):
            pipe.send(STOP)
        process.join(2 * GRACE_S)
        process.kill()
        process.join()
        pipe.close()


def _receive(pipe: Connection) -> Any:
    """Return the next message of the driver, or `None` if it has ended.

    Raises:
        Exception: the exception that the driver sent.
    """
    try:
        message = pipe.recv()
    except EOFError:
        return None
    if isinstance(message, Exception):
        raise message
    return message


def _run_driver(
    pipe: Connection, tasks: Sequence[RunTask], address: str | None, cpus: float, gpus: float, checkpoint_s: float
) -> None:
    """Run Ray in this process; send "connected", then events, then "done" or an exception."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the study, which sends STOP
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        ray = _connect(address)
        try:
            _check_resources(ray, {"CPU": cpus, "GPU": gpus})
            pipe.send("connected")
            remote_task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(run_task)
            _execute(ray, pipe, tasks, remote_task, checkpoint_s)
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"{RAY_ENDED} ({type(error).__name__})") from error
        finally:
            ray.shutdown()
        pipe.send("done")
    except (EOFError, BrokenPipeError):
        return  # the study was killed
    except Exception as error:
        pipe.send(error if isinstance(error, ConfigError) else RuntimeError(_one_line(error)))


def _execute(ray: Any, pipe: Connection, tasks: Sequence[RunTask], remote_task: Any, checkpoint_s: float) -> None:
    """Execute every task and send events, until all have ended or the study sends STOP.

    Raises:
        EOFError, BrokenPipeError: if the study has ended.
    """
    folder, grace_s = tasks[0].out.resolve().parent, GRACE_S
    progress_actor, marker = _create_progress_actor(ray), _create_marker(folder)
    cwd = Path.cwd()
    running = {
        remote_task.remote(
            task.config,
            task.out.resolve(),
            cwd=cwd,
            marker=marker,
            progress_actor=progress_actor,
            task_index=index,
            checkpoint_s=checkpoint_s,
        ): task
        for index, task in enumerate(tasks)
    }
    started: set[int] = set()
    try:
        while running and not (pipe.poll() and pipe.recv() == STOP):
            ended, _ = ray.wait(list(running), num_returns=1, timeout=POLL_S)
            for index, report in ray.get(progress_actor.drain.remote()):
                if tasks[index] not in running.values():  # a report may arrive after its run has ended
                    continue
                started.add(index)
                pipe.send(_progress_event(tasks[index], report))
            for reference in ended:
                task = running.pop(reference)
                if tasks.index(task) not in started:  # its machine was lost before the first report
                    pipe.send(RunStarted(task))
                pipe.send(RunEnded(task, _task_error(ray, reference)))
    except (EOFError, BrokenPipeError, ray.exceptions.RayError):
        grace_s = 0.0  # another study may start in the folder at any moment, or Ray cannot answer any more
        raise
    finally:
        _cancel(ray, list(running), grace_s)
        marker.unlink(missing_ok=True)


def _progress_event(task: RunTask, report: tuple[int, int, float] | None) -> Event:
    if report is None:
        return RunStarted(task)
    step, total_steps, train_error_pct = report
    return RunProgress(task, step=step, total_steps=total_steps, train_error_pct=train_error_pct)


def _cancel(ray: Any, references: list[Any], grace_s: float) -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        if grace_s:
            for reference in reversed(references):  # waiting tasks first: they would start when others end
                ray.cancel(reference)
            _, references = (
                ray.wait(references, num_returns=len(references), timeout=grace_s) if references else ([], [])
            )
        for reference in references:
            ray.cancel(reference, force=True)


def _connect(address: str | None) -> Any:
    """Connect to a cluster; return the `ray` module."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"--executor ray needs Ray ({error}); pip install 'resnetlab[cluster]'") from error
    where = address or "this machine"
    _check_address(address)
    try:
        cores = None if address else usable_cores()
        ray.init(
            address or "local",
            num_cpus=cores,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        needs_token = "Authentication" in f"{error!r} {error.__cause__!r}"
        hint = "it needs its own token: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" if needs_token else _one_line(error)
        raise ConfigError(f"no Ray cluster answers at {where} ({hint})") from error
    return ray


def _check_address(address: str | None) -> None:
    """Check that HOST:PORT accepts a connection: Ray itself would try for a minute."""
    if address in (None, "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ConfigError(f"--address is HOST:PORT (Ray's port is 6379), or auto, not {address}")
    try:
        socket.create_connection((host, int(port)), timeout=SOCKET_TIMEOUT_S).close()
    except OSError as error:
        raise ConfigError(f"no Ray cluster answers at {address} ({error.strerror or error})") from error


def _check_resources(ray: Any, required: dict[str, float]) -> None:
    """Raise if no machine has the required resources: Ray would wait for ever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for resource, amount in required.items():
        most = max((machine.get(resource, 0) for machine in machines), default=0)
        if amount > most:
            raise ConfigError(
                f"a run asks for {amount:g} {resource}, and no machine of the Ray cluster has more than {most:g}"
            )


def _create_progress_actor(ray: Any) -> Any:
    """Start the progress actor on this machine; return its handle."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=this_node)(ProgressActor).remote()


def _create_marker(folder: Path) -> Path:
    """Create a file with a unique name among the runs, by which other machines check that the folder is shared."""
    for old in folder.glob(".seen-*"):
        old.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f".seen-{secrets.token_hex(8)}"
    marker.touch()
    return marker


def _task_error(ray: Any, reference: Any) -> str | None:
    """Return the error of a task that has ended, or `None` if its run has finished.

    Raises:
        ConfigError: if its machine does not see the study's folder.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ConfigError):
            raise ConfigError(str(error.cause)) from None
        return _one_line(error.cause)
    except ray.exceptions.RayError as error:
        return f"lost its machine {RETRIES + 1} times ({_one_line(error)})"


def _one_line(error: BaseException) -> str:
    """Return an error as one line of at most 300 characters: Ray's messages are long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"
