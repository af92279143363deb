"""Requests beyond what the worker can compute are rejected early, so that the accepted ones get their results."""

import asyncio
import json
from asyncio.subprocess import Process
from types import SimpleNamespace
from typing import cast

import pytest

pytest.importorskip("fastapi")

from helpers.odd_images import encode_as
from helpers.simulated_time import SimulatedTimeLoop, run_in_simulated_time
from resnetlab.serving import service_time
from resnetlab.serving.errors import RequestError
from resnetlab.serving.limits import Limits
from resnetlab.serving.metrics import ServerMetrics
from resnetlab.serving.routes import submit_batch
from resnetlab.serving.service_time import WINDOW, ServiceTime
from resnetlab.serving.worker_supervisor import WorkerSupervisor

IMAGE = encode_as("png")
IMAGE_S, MAX_BATCH, LOAD_S = 0.005, 16, 2.0


class FakeWorker:
    """Answers images in batches, at a fixed speed; stands in for the process and its pipe."""

    def __init__(self, supervisor):
        self.supervisor, self.held = supervisor, []
        self.stdin = self

    def is_closing(self):
        return False

    def write(self, data):
        if data != IMAGE:
            self.held.append(json.loads(data[data.index(b"{") :])["id"])

    async def run(self):
        while True:
            batch, self.held = self.held[:MAX_BATCH], self.held[MAX_BATCH:]
            await asyncio.sleep(IMAGE_S * max(1, len(batch)))
            for number in batch:
                reply = {"id": number, "top": [], "times_ms": {}, "batch_size": len(batch)}
                self.supervisor._handle_reply(reply, b"")


def supervisor_with_worker(limits):
    supervisor = WorkerSupervisor({}, limits, ServerMetrics())
    worker = FakeWorker(supervisor)
    supervisor._process, supervisor.unavailable_reason = cast("Process", worker), None
    return supervisor, worker


def test_four_times_the_load_leaves_the_throughput(monkeypatch):
    """The queue holds more than can be computed within the timeout: without a limit in time, every result is late."""
    statuses = []
    simulated = SimulatedTimeLoop()
    monkeypatch.setattr(service_time, "time", SimpleNamespace(monotonic=simulated.time))

    async def request(supervisor):
        try:
            supervisor.check_capacity()
            await supervisor.result(supervisor.submit(IMAGE, top=1, explain=False))
            statuses.append(200)
        except RequestError as error:
            statuses.append(error.status)

    async def load():
        supervisor, worker = supervisor_with_worker(Limits(max_queue=256, timeout_s=0.6))
        running = asyncio.create_task(worker.run())
        requests = []
        while simulated.time() < LOAD_S:
            requests += [asyncio.create_task(request(supervisor)) for _ in range(4)]
            await asyncio.sleep(IMAGE_S)
        await asyncio.gather(*requests)
        running.cancel()

    run_in_simulated_time(simulated, load())
    print({status: statuses.count(status) for status in set(statuses)})
    assert set(statuses) <= {200, 429, 503}
    assert statuses.count(200) > 0.6 * LOAD_S / IMAGE_S
    assert statuses.count(503) < 0.1 * statuses.count(200)
    assert statuses.count(429) > statuses.count(200)


def test_the_reason_names_the_wait():
    async def fill():
        supervisor, _ = supervisor_with_worker(Limits(timeout_s=2))
        for _ in range(60):
            supervisor.check_capacity()
            supervisor.submit(IMAGE, top=1, explain=False)

    with pytest.raises(RequestError, match=r"images wait, about 1\.\d s, and a result must come within 2 s") as raised:
        asyncio.run(fill())
    assert raised.value.status == 429


def test_an_idle_worker_is_never_too_slow():
    """The first image after a slow one is accepted, however slow that was."""

    async def submit():
        supervisor, _ = supervisor_with_worker(Limits(timeout_s=0.01))
        supervisor.submit(IMAGE, top=1, explain=False)
        supervisor.check_capacity(16)

    asyncio.run(submit())


def test_service_time_is_the_inverse_of_the_throughput(monkeypatch):
    now = 0.0
    monkeypatch.setattr(service_time.time, "monotonic", lambda: now)
    measured = ServiceTime()
    assert measured.seconds == service_time.DEFAULT_S
    measured.start()
    for _ in range(WINDOW):  # batches of 16 replies that arrive together, every 1.6 s
        now += 1.6
        for _ in range(16):
            measured.add_reply()
    assert measured.seconds == pytest.approx(0.1)
    now += 100  # nothing to do
    measured.start()
    now += 0.1
    measured.add_reply()
    assert measured.seconds == pytest.approx(0.1, rel=0.3)


def test_a_failed_image_cancels_the_others_of_its_batch():
    cancelled = []

    class Supervisor:
        def submit(self, data, **_):
            return data

        async def result(self, item):
            try:
                await asyncio.sleep(0.001 if item == b"failing" else 30)
            except asyncio.CancelledError:
                cancelled.append(item)
                raise
            raise RequestError(500, "the model failed")

    async def batch():
        supervisor = cast("WorkerSupervisor", Supervisor())
        with pytest.raises(RequestError, match="the model failed"):
            await submit_batch(supervisor, [b"first", b"failing", b"last"], top=1, explain=False)
        await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(batch(), 5))
    assert cancelled == [b"first", b"last"]
