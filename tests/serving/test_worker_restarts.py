"""Restarts of a worker that dies again and again: their delays, and what happens to the queue."""

import asyncio
import sys

import pytest

pytest.importorskip("fastapi")

from resnetlab.serving import worker_supervisor as module
from resnetlab.serving.limits import Limits
from resnetlab.serving.metrics import ServerMetrics
from resnetlab.serving.worker_supervisor import WorkerSupervisor

NUM_KILLS = 20


@pytest.mark.parametrize(("uptime_s", "longest_s"), [(0.1, 30.0), (61.0, 0.0)])
def test_a_worker_that_dies_twenty_times_in_a_row(monkeypatch, uptime_s, longest_s):
    """A worker that dies at once is restarted ever later; one that was up for a minute at once, every time."""
    metrics = ServerMetrics()
    supervisor, delays_s = WorkerSupervisor({}, Limits(), metrics), []

    async def run_worker(on_ready: object) -> float:
        if metrics.restarts._value.get() == NUM_KILLS:
            raise RuntimeError("enough")
        return uptime_s

    async def sleep(delay_s: float) -> None:
        if delay_s != module.HANG_CHECK_INTERVAL_S:
            delays_s.append(delay_s)
        else:
            await asyncio.Event().wait()

    async def run() -> None:
        supervisor.submit(b"queued", top=1, explain=False)
        with pytest.raises(RuntimeError, match="enough"):
            await supervisor.run(lambda _: None)
        assert len(supervisor._queue) == 1  # for the next worker

    monkeypatch.setattr(supervisor, "_run_worker", run_worker)
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    asyncio.run(run())
    assert len(delays_s) == NUM_KILLS
    assert delays_s == sorted(delays_s)
    assert (delays_s[0], delays_s[-1]) == (0.0, longest_s)


@pytest.mark.parametrize("is_loaded", [False, True])
def test_a_process_that_cannot_start_ends_the_first_start_alone(monkeypatch, is_loaded):
    supervisor = WorkerSupervisor({}, Limits(), ServerMetrics())
    supervisor.model_info = {"name": "resnet8"} if is_loaded else None

    async def no_memory(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(module.asyncio, "create_subprocess_exec", no_memory)
    if not is_loaded:
        with pytest.raises(RuntimeError, match="no process can be started: Cannot allocate memory"):
            asyncio.run(supervisor._run_worker(lambda _: None))
        return
    assert asyncio.run(supervisor._run_worker(lambda _: None)) == 0.0
    assert "could not be reloaded (no process can be started" in (supervisor.unavailable_reason or "")


def test_a_worker_that_is_killed_while_it_loads_leaves_a_reason(monkeypatch):
    supervisor = WorkerSupervisor({}, Limits(), ServerMetrics())
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(module, "python_module", lambda _: killed)
    with pytest.raises(RuntimeError, match="was killed by signal 9 before it was ready; the machine may lack memory"):
        asyncio.run(supervisor._run_worker(lambda _: None))
