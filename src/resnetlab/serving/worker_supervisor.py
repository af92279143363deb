"""The one worker and those who wait for it: a bounded queue, deadlines, and a new worker where one dies or hangs.

The worker has at most `Limits.window` images at a time; the others wait here, where they can still be dropped, and
survive a worker that dies.
"""

import asyncio
import itertools
import json
import math
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from resnetlab.config import ConfigError
from resnetlab.serving.errors import RequestError
from resnetlab.serving.ipc import Frame, encode_message, receive_message
from resnetlab.serving.limits import Limits
from resnetlab.serving.metrics import ServerMetrics

GRACE_S = 2.0
"""Seconds beyond the deadline after which a worker that still has not answered is taken for hung."""
LOOK_S = 0.25
"""Seconds between two looks at whether it hangs."""
LONGEST_PAUSE_S = 30.0
"""Seconds before another worker is started, at most; the first time it is started at once."""
SOUND_S = 60.0
"""A worker that answered for so many seconds had no fault that stays."""
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Threads of OpenMP that wait for work must not keep a core: the server needs it to bring the next image."""


@dataclass(frozen=True)
class WorkerReply:
    """What the worker said of one image."""

    top: list[tuple[str, float]]
    """Classes and probabilities, the most probable first."""
    ms: dict[str, float]
    """Milliseconds: `queue`, `decode`, `inference`, `explain`, `total`."""
    drawing: bytes
    """PNG, where it was asked for."""


@dataclass
class PendingRequest:
    """An image that was asked about."""

    number: int
    frame: bytes
    answer: asyncio.Future[WorkerReply]
    asked: float
    """When, of `time.monotonic`."""
    sent: float = field(default=math.inf)
    """When the worker got it."""


class WorkerSupervisor:
    """The worker process, kept alive, and its queue."""

    def __init__(self, settings: Mapping[str, Any], limits: Limits, meters: ServerMetrics) -> None:
        """Take what the worker is started with; `run` starts it."""
        self._settings = settings
        self._limits = limits
        self._meters = meters
        self._numbers = itertools.count()
        self._waiting: deque[PendingRequest] = deque()
        self._sent: dict[int, PendingRequest] = {}
        self._process: Process | None = None
        self._failures = 0  # workers in a row that did not live long
        self._loadable = True
        self._pace_s = 0.05  # of one image; measured from the first batch on
        self._hung = False
        self.model: dict[str, Any] | None = None
        """What the worker said of the network; `None` until it was loaded for the first time."""
        self.trouble: str | None = "the network is being loaded"
        """Why nothing is answered at the moment; `None` where all is well."""

    @property
    def process_id(self) -> int | None:
        """The worker's, if there is one."""
        return None if self._process is None else self._process.pid

    def check_room(self, images: int = 1) -> None:
        """See that so many images may be asked about now.

        Raises:
            Problem: 429 where the queue is full, 503 where the worker cannot be started again.
        """
        if not self._loadable:
            after_s = max(1, math.ceil(_pause_s(self._failures)))
            raise RequestError(503, f"{self.trouble}; it is tried again", retry_after_s=after_s)
        waiting, sent = len(self._waiting), len(self._sent)
        free = self._limits.max_queue - waiting + (max(0, self._limits.window - sent) if self.trouble is None else 0)
        if images > free:
            after_s = min(60, max(1, math.ceil((waiting + sent) * self._pace_s)))
            raise RequestError(
                429,
                f"{waiting} images wait already, of at most {self._limits.max_queue}; ask again in {after_s} s",
                retry_after_s=after_s,
            )

    def ask(self, data: bytes, top: int, explain: bool) -> PendingRequest:
        """Have the worker look at an encoded image, and name `top` classes; `answer` waits for it."""
        number = next(self._numbers)
        frame = encode_message({"id": number, "top": top, "explain": explain}, data)
        job = PendingRequest(number, frame, asyncio.get_running_loop().create_future(), time.monotonic())
        self._waiting.append(job)
        self._send()
        return job

    async def answer(self, job: PendingRequest) -> WorkerReply:
        """Return what the worker said. Whoever is cancelled meanwhile leaves the queue.

        Raises:
            Problem: where the image cannot be decoded, the worker dies, or the deadline passes.
        """
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await job.answer
        except TimeoutError:
            where = "waiting for the worker" if job.sent == math.inf else "with the worker"
            raise RequestError(
                503,
                f"no answer within {self._limits.timeout_s:g} s (the image was {where}); ask again later",
                retry_after_s=max(1, math.ceil(len(self._waiting) * self._pace_s)),
            ) from None
        finally:
            if job.sent == math.inf:
                with suppress(ValueError):
                    self._waiting.remove(job)
            self._gauge()

    def _send(self) -> None:
        """Give the worker as many of those that wait as it may have."""
        pipe = self._process.stdin if self._process else None
        if pipe is not None and not pipe.is_closing() and self.trouble is None:
            while self._waiting and len(self._sent) < self._limits.window:
                job = self._waiting.popleft()
                job.sent = time.monotonic()
                self._sent[job.number] = job
                pipe.write(job.frame)
                job.frame = b""
        self._gauge()

    def _gauge(self) -> None:
        self._meters.queue.set(len(self._waiting))
        self._meters.in_worker.set(len(self._sent))

    async def run(self, ready: Callable[[dict[str, Any]], None]) -> None:
        """Keep a worker until cancelled; `ready` is told once what the first one said of the network.

        Raises:
            ConfigError: where the first one says that it was called wrongly: no such model, a package that is missing.
            RuntimeError: where it fails otherwise.
        """
        watch = asyncio.create_task(self._watch())
        try:
            while True:
                lived_s = await self._employ(ready)
                self._meters.restarts.inc()
                self._failures = 1 if lived_s > SOUND_S else self._failures + 1
                await asyncio.sleep(_pause_s(self._failures))
        finally:
            watch.cancel()
            await self.stop()

    async def stop(self) -> None:
        """End the worker, whatever it does."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _employ(self, ready: Callable[[dict[str, Any]], None]) -> float:
        """Start a worker and take its answers until it ends; return for how many seconds it answered."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "resnetlab.serving.worker",
            json.dumps(self._settings),
            stdin=PIPE,
            stdout=PIPE,
            env={**QUIET, **os.environ},
        )
        reader = self._process.stdout
        assert reader is not None
        try:
            first = await receive_message(reader)
            if first is None or "ready" not in first[0]:
                self._refused(first)
                return 0.0
            self.trouble, self._loadable = None, True
            if self.model is None:
                ready(first[0]["ready"])
            self.model = first[0]["ready"]
            self._meters.ready.set(1)
            begun = time.monotonic()
            self._send()
            while (frame := await receive_message(reader)) is not None:
                self._heed(*frame)
            return time.monotonic() - begun
        finally:
            self._meters.ready.set(0)
            await self.stop()
            self._lose(self._process)

    def _refused(self, first: Frame | None) -> None:
        """Note why a worker could not begin; the first one's reason is the server's."""
        reason = "the worker ended before it was ready" if first is None else first[0]["failed"]
        if self.model is None:
            raise ConfigError(reason) if first is not None and first[0]["mistake"] else RuntimeError(reason)
        self.trouble, self._loadable = f"the network cannot be loaded again ({reason})", False

    def _lose(self, process: Process) -> None:
        """Tell those whose images the worker had."""
        how = "hung and was stopped" if self._hung else _how(process.returncode)
        self._hung = False
        if self.trouble is None:
            self.trouble = f"the worker {how}, and another one is being started"
        for job in self._sent.values():
            if not job.answer.done():
                job.answer.set_exception(
                    RequestError(503, f"the worker {how} while it had this image; ask again", retry_after_s=1)
                )
        self._sent.clear()
        self._gauge()

    def _heed(self, said: dict[str, Any], drawing: bytes) -> None:
        """Hand on what the worker said of one image."""
        job = self._sent.pop(said["id"])
        self._send()
        outcome = said.get("status", 200)
        self._meters.images.labels("answered" if outcome == 200 else str(outcome)).inc()
        if outcome != 200:
            if not job.answer.done():
                job.answer.set_exception(RequestError(outcome, said["detail"]))
            return
        total = 1000 * (time.monotonic() - job.asked)
        ms = {"decode": said["ms"]["decode"], "inference": said["ms"]["inference"]}
        ms["explain"] = said["ms"].get("explain", 0.0)
        ms = {"queue": max(0.0, total - sum(ms.values())), **ms}
        self._pace_s += 0.1 * ((ms["inference"] / said["batch"] + ms["explain"]) / 1000 - self._pace_s)
        for stage, meter in self._meters.stages.items():
            if stage != "explain" or drawing:
                meter.observe(ms[stage] / 1000)
        self._meters.total_s.observe(total / 1000)
        self._meters.batch.observe(said["batch"])
        if not job.answer.done():
            job.answer.set_result(WorkerReply(said["top"], {**ms, "total": total}, drawing))

    async def _watch(self) -> None:
        """Kill a worker that answers no more."""
        while True:
            await asyncio.sleep(LOOK_S)
            oldest = next(iter(self._sent.values()), None)
            late_s = self._limits.timeout_s + GRACE_S
            if oldest is not None and time.monotonic() - oldest.sent > late_s and self._process is not None:
                self._hung = True
                with suppress(ProcessLookupError):
                    self._process.kill()


def _pause_s(failures: int) -> float:
    return 0.0 if failures <= 1 else min(LONGEST_PAUSE_S, 0.5 * 2.0 ** (failures - 2))


def _how(status: int | None) -> str:
    return f"was killed by signal {-status}" if status is not None and status < 0 else f"ended with status {status}"
