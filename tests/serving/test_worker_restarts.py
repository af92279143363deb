"""Restarts of a worker that dies again and again: their delays, and what happens to the queue."""

import asyncio

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
