"""A study's runs on a Ray cluster: each a task, tried again from its checkpoint where its machine is lost.

The same events, run directories and records as `pool`. The study's folder must be on storage that every machine sees,
under the same path: a run that is moved finds its checkpoint there.

Ray lives in a process of its own (`_drive`): it writes to standard output as it likes, and ends its process where its
own ones are lost. The study hears events through a pipe.
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
from resnetlab.study.local_pool import Event, RunEnded, RunProgress, RunStarted, RunTask, defer_sigint
from resnetlab.study.ray_task import ProgressActor, run_task
from resnetlab.system.cores import usable_cores

RETRIES = 5
"""How often a run may lose its machine."""
CONNECT_S = 60.0
"""Seconds in which a cluster must take us in; a socket must answer in `KNOCK_S`."""
KNOCK_S = 10.0
POLL_S = 0.2
"""Seconds between looks at what the runs have told."""
GRACE_S = 15.0
"""Seconds that runs have for a last checkpoint when the study is stopped."""
CHECKPOINT_S = 30.0
"""Seconds between checkpoints, at least: a machine may be lost at any time."""
STOP = "stop"
GONE = "Ray has ended on this machine; what runs have saved is kept, and the same command continues"


def run_tasks(
    jobs: Sequence[RunTask],
    address: str | None = None,
    *,
    cpus: float = 1,
    gpus: float = 0,
    checkpoint_s: float = CHECKPOINT_S,
) -> Generator[Event]:
    """Run jobs as tasks of a Ray cluster, as many at once as it has room for; yield what happens as it happens.

    `address` is HOST:PORT or `auto` (the cluster of this machine); without it a cluster of this machine alone is
    started, or RAY_ADDRESS is heeded. Each task asks for so many `cpus` and `gpus`. A second `RunStarted` says that a run
    lost its machine and goes on elsewhere. Closing the iterator early has the runs save their state and leave.

    Raises:
        ConfigError: where Ray is not installed, no cluster answers or none of its machines is large enough, or one does
            not see the folder of the runs.
        RuntimeError: where Ray ends while runs are under way.
    """
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    address = address or os.environ.get("RAY_ADDRESS")
    process = context.Process(target=_drive, args=(theirs, jobs, address, cpus, gpus, checkpoint_s), daemon=True)
    with defer_sigint():
        process.start()
        theirs.close()  # so that the pipe ends when the process does
    try:
        if not ours.poll(CONNECT_S) or _heard(ours) is None:
            process.kill()
            raise ConfigError(f"no Ray cluster answers at {address or 'this machine'}")
        while isinstance(event := _heard(ours), Event):
            yield event
        if event is None:
            raise RuntimeError(GONE)
    finally:
        with contextlib.suppress(OSError):
            ours.send(STOP)
        process.join(2 * GRACE_S)
        process.kill()
        process.join()
        ours.close()


def _heard(pipe: Connection) -> Any:
    """Return what Ray's process says; `None` where it is there no more.

    Raises:
        Exception: which it sends.
    """
    try:
        said = pipe.recv()
    except EOFError:
        return None
    if isinstance(said, Exception):
        raise said
    return said


def _drive(
    pipe: Connection, jobs: Sequence[RunTask], address: str | None, cpus: float, gpus: float, checkpoint_s: float
) -> None:
    """Be the process that speaks to Ray: send "connected", then events, then "done" or an exception."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the study, which says STOP
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        ray = _connected(address)
        try:
            _check_room(ray, {"CPU": cpus, "GPU": gpus})
            pipe.send("connected")
            _make(
                ray, pipe, jobs, ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(run_task), checkpoint_s
            )
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"{GONE} ({type(error).__name__})") from error
        finally:
            ray.shutdown()
        pipe.send("done")
    except (EOFError, BrokenPipeError):
        return  # nobody listens: the study was killed
    except Exception as error:
        pipe.send(error if isinstance(error, ConfigError) else RuntimeError(_line(error)))


def _make(ray: Any, pipe: Connection, jobs: Sequence[RunTask], task: Any, checkpoint_s: float) -> None:
    """Have every job made, and send what happens, until all have ended or the study says STOP.

    Raises:
        EOFError, BrokenPipeError: where the study is there no more.
    """
    folder, grace_s = jobs[0].out.resolve().parent, GRACE_S
    desk, token = _desk(ray), _token(folder)
    here = Path.cwd()
    running = {
        task.remote(job.config, job.out.resolve(), here, token, desk, name, checkpoint_s): job
        for name, job in enumerate(jobs)
    }
    begun: set[int] = set()
    try:
        while running and not (pipe.poll() and pipe.recv() == STOP):
            ended, _ = ray.wait(list(running), num_returns=1, timeout=POLL_S)
            for name, told in ray.get(desk.take.remote()):
                if jobs[name] not in running.values():  # a last word may come after the end
                    continue
                begun.add(name)
                pipe.send(RunStarted(jobs[name]) if told is None else RunProgress(jobs[name], *told))
            for one in ended:
                job = running.pop(one)
                if jobs.index(job) not in begun:  # it was lost before it could say a word
                    pipe.send(RunStarted(job))
                pipe.send(RunEnded(job, _outcome(ray, one)))
    except (EOFError, BrokenPipeError, ray.exceptions.RayError):
        grace_s = 0.0  # without this study another may begin in the folder at any moment; without Ray nobody answers
        raise
    finally:
        _cancel(ray, list(running), grace_s)
        token.unlink(missing_ok=True)


def _cancel(ray: Any, tasks: list[Any], grace_s: float) -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        if grace_s:
            for one in reversed(tasks):  # first those that wait: they would take the places of the others
                ray.cancel(one)
            _, tasks = ray.wait(tasks, num_returns=len(tasks), timeout=grace_s) if tasks else ([], [])
        for one in tasks:
            ray.cancel(one, force=True)


def _connected(address: str | None) -> Any:
    """Return Ray, connected."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"--executor ray needs Ray ({error}); pip install 'resnetlab[cluster]'") from error
    where = address or "this machine"
    _knock(address)
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
        secret = "Authentication" in f"{error!r} {error.__cause__!r}"
        hint = "it wants its own token: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" if secret else _line(error)
        raise ConfigError(f"no Ray cluster answers at {where} ({hint})") from error
    return ray


def _knock(address: str | None) -> None:
    """See that somebody listens at HOST:PORT: Ray itself would ask for a minute."""
    if address in (None, "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ConfigError(f"--address is HOST:PORT (Ray's port is 6379), or auto, not {address}")
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
    except OSError as error:
        raise ConfigError(f"no Ray cluster answers at {address} ({error.strerror or error})") from error


def _check_room(ray: Any, wanted: dict[str, float]) -> None:
    """Refuse what no machine has: Ray would wait for ever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for resource, amount in wanted.items():
        most = max((machine.get(resource, 0) for machine in machines), default=0)
        if amount > most:
            raise ConfigError(
                f"a run asks for {amount:g} {resource}, and no machine of the Ray cluster has more than {most:g}"
            )


def _desk(ray: Any) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(ProgressActor).remote()


def _token(folder: Path) -> Path:
    """Leave a file with a name of its own where the runs are, by which other machines know the folder."""
    for old in folder.glob(".seen-*"):
        old.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f".seen-{secrets.token_hex(8)}"
    token.touch()
    return token


def _outcome(ray: Any, one: Any) -> str | None:
    """Return what a task gave back, or why it gave nothing.

    Raises:
        ConfigError: where its machine does not see the study's folder.
    """
    try:
        return ray.get(one)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ConfigError):
            raise ConfigError(str(error.cause)) from None
        return _line(error.cause)
    except ray.exceptions.RayError as error:
        return f"lost its machine {RETRIES + 1} times ({_line(error)})"


def _line(error: BaseException) -> str:
    """Return an error as one line: Ray explains itself at length."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else f"{words[:299]}…"
