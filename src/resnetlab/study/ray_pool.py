"""A study's runs on a Ray cluster: each a task, tried again from its checkpoint where its machine is lost.

The same events, run directories and records as `pool`. The study's folder must be on storage that every machine sees,
under the same path: a run that is moved finds its checkpoint there.
"""

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from resnetlab.config import ConfigError, RunConfig
from resnetlab.cores import usable_cores
from resnetlab.study.pool import Ended, Event, Job, Started, Told

RETRIES = 5
"""How often a run may lose its machine."""
KNOCK_S = 10.0
"""Seconds in which a cluster must answer at all."""
POLL_S = 0.2
"""Seconds between looks at what the runs have told."""


def run_jobs(jobs: Sequence[Job], address: str | None = None, *, cpus: float = 1, gpus: float = 0) -> Generator[Event]:
    """Run jobs as tasks of a Ray cluster, as many at once as it has room for; yield what happens as it happens.

    `address` is that of the cluster (`auto` for the one this machine belongs to); a cluster of this machine alone is
    started if not given. Each task asks for so many `cpus` and `gpus`. Closing the iterator early cancels the tasks.

    Raises:
        ConfigError: where Ray is not installed, or no cluster answers.
    """
    ray = _connected(address)
    desk: Any = None
    running: dict[Any, Job] = {}
    try:
        desk = _desk(ray)
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(work)
        token = _token(jobs)
        running = {task.remote(job.config, job.out.resolve(), token, desk, name): job for name, job in enumerate(jobs)}
        started: set[int] = set()
        while running:
            ended, _ = ray.wait(list(running), num_returns=1, timeout=POLL_S)
            for name, told in ray.get(desk.take.remote()):
                if name not in started:
                    started.add(name)
                    yield Started(jobs[name])
                if told is not None:
                    yield Told(jobs[name], *told)
            for one in ended:
                yield Ended(running.pop(one), _outcome(ray, one))
    finally:
        for one in running:
            ray.cancel(one, force=True)
        with contextlib.suppress(OSError):
            _token_file(jobs).unlink(missing_ok=True)
        ray.shutdown()


def work(config: RunConfig, out: Path, token: str, desk: Any, name: int) -> str | None:
    """Make one run, on whatever machine this is; return what went wrong, or `None`."""
    import ray

    seen = out.parent / f".{token}"
    if not seen.exists():
        return f"{out.parent} is not there on {os.uname().nodename}; the study's folder must be seen by all machines"
    import torch

    from resnetlab.training.listener import Listener, Progress
    from resnetlab.training.loop import fit
    from resnetlab.training.session import Session

    class Teller(Listener):
        def see(self, progress: Progress) -> None:
            desk.tell.remote(name, (progress.step, progress.total_steps, progress.train_error_pct))

    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
    ray.get(desk.tell.remote(name, None))
    try:
        fit(config, out, session=Session(resume=True), listener=Teller())
    except Exception as error:
        return str(error) or type(error).__name__
    return None


class Desk:
    """Where runs tell how far they are; an actor on the study's own machine, which is lost only with the study."""

    def __init__(self) -> None:
        self._told: list[tuple[int, tuple[int, int, float] | None]] = []

    def tell(self, name: int, told: tuple[int, int, float] | None) -> None:
        """Take in that a run has begun, or where it stands."""
        self._told.append((name, told))

    def take(self) -> list[tuple[int, tuple[int, int, float] | None]]:
        """Hand on what was told since the last time."""
        told, self._told = self._told, []
        return told


def _connected(address: str | None) -> Any:
    """Return Ray, connected, and quiet."""
    try:
        import ray
        from ray.exceptions import AuthenticationError
    except ImportError as error:
        raise ConfigError(f"--executor ray needs Ray ({error}); pip install 'resnetlab[cluster]'") from error
    _knock(address)
    try:
        cores = None if address else usable_cores()
        ray.init(address, num_cpus=cores, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        secret = isinstance(error.__cause__, AuthenticationError)
        hint = "it wants its token: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" if secret else _first_line(error)
        raise ConfigError(f"no Ray cluster answers at {address or 'this machine'} ({hint})") from error
    return ray


def _knock(address: str | None) -> None:
    """See that somebody listens at HOST:PORT: Ray itself would ask for a minute, and end the process."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
        except OSError as error:
            raise ConfigError(f"no Ray cluster answers at {address} ({error.strerror or error})") from error


def _desk(ray: Any) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Desk).remote()


def _token(jobs: Sequence[Job]) -> str:
    """Leave a file with a name of its own where the runs are, by which other machines know the folder."""
    for old in _folder(jobs).glob(".seen-*"):
        old.unlink()
    token = f"seen-{secrets.token_hex(8)}"
    _folder(jobs).mkdir(parents=True, exist_ok=True)
    (_folder(jobs) / f".{token}").touch()
    return token


def _token_file(jobs: Sequence[Job]) -> Path:
    return next(_folder(jobs).glob(".seen-*"), _folder(jobs) / ".seen-none")


def _folder(jobs: Sequence[Job]) -> Path:
    return jobs[0].out.resolve().parent


def _outcome(ray: Any, one: Any) -> str | None:
    """Return what a task gave back, or why it gave nothing."""
    try:
        return ray.get(one)
    except ray.exceptions.RayError as error:
        return f"lost {RETRIES + 1} times ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
