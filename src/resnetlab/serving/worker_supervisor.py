"""The supervisor of the worker process: a bounded queue, deadlines, and restarts after a crash or hang.

The worker holds at most `Limits.max_in_worker` images. All others wait in the queue of this process, where they can
still be cancelled and survive a crash. When the queue is full, or so long that new images would wait for most of their
time, they are rejected with 429 (backpressure): a server that computes images whose clients have given up answers none.
The worker reports when it begins with a stage of an image. It counts as hung when its messages stop (`worker_load`).
"""

import asyncio
import itertools
import json
import math
import os
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from resnetlab.config import ConfigError
from resnetlab.serving.errors import RequestError
from resnetlab.serving.ipc import encode_header, receive_message
from resnetlab.serving.limits import Limits
from resnetlab.serving.metrics import ServerMetrics
from resnetlab.serving.service_time import ServiceTime
from resnetlab.serving.worker_load import PendingRequest, WorkerLoad, WorkerReply
from resnetlab.system.python_command import python_module

HANG_CHECK_INTERVAL_S = 0.25
MAX_WAIT_SHARE = 0.7
"""Expected time until the result, as a share of the timeout, above which images are rejected: estimates are rough."""
MAX_RESTART_DELAY_S = 30.0
"""Longest delay before a restart; the first restart has no delay, later ones back off exponentially."""
HEALTHY_AFTER_S = 60.0
"""Uptime after which a crash counts as the first failure again."""
PASSIVE_OPENMP = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Idle OpenMP threads must not spin on a core: the server needs it to send the next image."""

ModelInfo = dict[str, Any]
"""Description of the model, which the worker reports when it is ready; `/v1/model` returns it."""


class WorkerSupervisor:
    """The worker process and its queue."""

    def __init__(self, settings: Mapping[str, Any], limits: Limits, metrics: ServerMetrics) -> None:
        """Store the settings of the worker (see `worker.main`); `run` starts it."""
        self._settings = settings
        self._limits = limits
        self._metrics = metrics
        self._ids = itertools.count()
        self._queue: deque[PendingRequest] = deque()
        self._load = WorkerLoad(limits)
        self._process: Process | None = None
        self._failures = 0  # consecutive workers that did not stay up for HEALTHY_AFTER_S
        self._loadable = True
        self._service_time = ServiceTime()
        self._hung = False
        self.model_info: ModelInfo | None = None
        """Description of the model; `None` until the first worker is ready."""
        self.unavailable_reason: str | None = "the model is loading"
        """Why the worker is not ready; `None` if it is."""

    def check_capacity(self, num_images: int = 1) -> None:
        """Raise unless the queue has room for `num_images`, and their results are expected well before the timeout.

        Raises:
            RequestError: 429 if the queue is full or too long, 503 if the worker cannot be restarted.
        """
        if not self._loadable:
            retry_s = max(1, math.ceil(_restart_delay_s(self._failures)))
            raise RequestError(503, f"{self.unavailable_reason}; retry in {retry_s} s", retry_after_s=retry_s)
        queued, sent = len(self._queue), len(self._load.sent)
        free = self._limits.max_queue - queued
        if self.unavailable_reason is None:
            free += max(0, self._limits.max_in_worker - sent)
        wait_s = (queued + sent) * self._service_time.seconds
        if num_images <= free and (queued == 0 or wait_s <= MAX_WAIT_SHARE * self._limits.timeout_s):
            return
        retry_s = min(60, max(1, math.ceil(wait_s)))
        reason = f"the queue is full ({queued} of at most {self._limits.max_queue} images)"
        if num_images <= free:
            timeout_s = f"{self._limits.timeout_s:g} s"
            reason = f"{queued} images wait, about {wait_s:.1f} s, and a result must come within {timeout_s}"
        raise RequestError(429, f"{reason}; retry in {retry_s} s", retry_after_s=retry_s)

    def submit(self, data: bytes, *, top: int, explain: bool) -> PendingRequest:
        """Queue an encoded image and return a handle for `result`.

        Args:
            data: The encoded image.
            top: Number of classes to return.
            explain: Whether to render a Grad-CAM overlay.
        """
        reply = asyncio.get_running_loop().create_future()
        pending = PendingRequest(next(self._ids), data, top=top, explain=explain, reply=reply)
        self._queue.append(pending)
        self._send_queued()
        return pending

    async def result(self, pending: PendingRequest) -> WorkerReply:
        """Wait for the worker's reply and return it. Cancelling this coroutine removes the image from the queue.

        Raises:
            RequestError: If the image cannot be decoded, the worker crashes, or the deadline passes.
        """
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await pending.reply
        except TimeoutError:
            where = "in the queue" if pending.sent_at is None else "in the worker"
            retry_s = max(1, math.ceil(len(self._queue) * self._service_time.seconds))
            raise RequestError(
                503,
                f"no result within {self._limits.timeout_s:g} s (the image was {where}); retry in {retry_s} s",
                retry_after_s=retry_s,
            ) from None
        finally:
            if pending.sent_at is None:
                with suppress(ValueError):
                    self._queue.remove(pending)
            self._update_gauges()

    async def run(self, on_ready: Callable[[ModelInfo], None]) -> None:
        """Run the worker, and restart it after every exit, until cancelled.

        Args:
            on_ready: Called once, when the first worker is ready.

        Raises:
            ConfigError: If the first worker reports a mistake in the call, such as a missing model file or package.
            RuntimeError: If the first worker fails for another reason.
        """
        hang_check = asyncio.create_task(self._kill_when_hung())
        try:
            while True:
                uptime_s = await self._run_worker(on_ready)
                self._metrics.restarts.inc()
                self._failures = 1 if uptime_s > HEALTHY_AFTER_S else self._failures + 1
                await asyncio.sleep(_restart_delay_s(self._failures))
        finally:
            hang_check.cancel()
            await self.stop()

    async def stop(self) -> None:
        """Kill the worker and wait for its exit."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _run_worker(self, on_ready: Callable[[ModelInfo], None]) -> float:
        """Start a worker and handle its replies until it exits; return for how many seconds it was ready."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *python_module("resnetlab.serving.worker"),
                json.dumps(self._settings),
                stdin=PIPE,
                stdout=PIPE,
                env={**PASSIVE_OPENMP, **os.environ},
                start_new_session=True,  # Ctrl-C in the terminal is for the server, which drains first
            )
        except OSError as error:  # no memory, or no file descriptors, for another process
            self._handle_startup_failure(f"no process can be started: {error.strerror}")
            return 0.0
        reader = self._process.stdout
        assert reader is not None
        try:
            startup = await receive_message(reader)
            if startup is None:
                status = await self._process.wait()
                hint = "; the machine may lack memory" if status == -signal.SIGKILL else ""
                self._handle_startup_failure(f"the worker {_describe_exit(status)} before it was ready{hint}")
                return 0.0
            if "ready" not in startup[0]:
                self._handle_startup_failure(startup[0]["error"], is_config_error=startup[0]["is_config_error"])
                return 0.0
            model_info = startup[0]["ready"]
            self._load.min_side, self._load.batch_s = startup[0]["min_side"], startup[0]["batch_s"]
            self.unavailable_reason, self._loadable = None, True
            if self.model_info is None:
                on_ready(model_info)
            self.model_info = model_info
            self._metrics.ready.set(1)
            ready_at = time.monotonic()
            self._send_queued()
            while (message := await receive_message(reader)) is not None:
                self._handle_reply(*message)
            return time.monotonic() - ready_at
        finally:
            self._metrics.ready.set(0)
            await self.stop()
            self._fail_sent(self._process)

    def _handle_startup_failure(self, reason: str, *, is_config_error: bool = False) -> None:
        """Raise if the first worker failed to start; store the reason if a later one did."""
        if self.model_info is None:
            raise ConfigError(reason) if is_config_error else RuntimeError(reason)
        self.unavailable_reason, self._loadable = f"the model could not be reloaded ({reason})", False

    def _send_queued(self) -> None:
        """Send queued images to the worker, as many as it may hold; small images pass large ones that must wait."""
        pipe = self._process.stdin if self._process else None
        if pipe is not None and not pipe.is_closing() and self.unavailable_reason is None:
            waiting: deque[PendingRequest] = deque()
            large_waits = False
            while self._queue and len(self._load.sent) < self._limits.max_in_worker:
                pending = self._queue.popleft()
                self._load.reserve(pending)
                is_large = pending.memory_bytes > self._limits.large_decode_bytes
                if (is_large and large_waits) or not self._load.fits(pending):
                    large_waits = True  # later large images do not pass this one
                    waiting.append(pending)
                    continue
                if not self._load.sent:
                    self._service_time.start()
                self._load.add(pending)
                header = {
                    "id": pending.id,
                    "top": pending.top,
                    "explain": pending.explain,
                    "memory_bytes": pending.memory_bytes,
                }
                pipe.write(encode_header(header, len(pending.data)))
                pipe.write(pending.data)
                pending.data = b""
            self._queue = waiting + self._queue
        self._update_gauges()

    def _handle_reply(self, header: dict[str, Any], overlay_png: bytes) -> None:
        """Resolve the pending request of one reply, and update the metrics."""
        if "stage" in header:
            self._load.begin_stage(header["ids"], header["stage"])
            return
        pending = self._load.remove(header["id"])
        self._service_time.add_reply()
        self._send_queued()
        status = header.get("status", 200)
        self._metrics.images.labels("answered" if status == 200 else str(status)).inc()
        if status != 200:
            if not pending.reply.done():
                pending.reply.set_exception(RequestError(status, header["detail"]))
            return
        total_ms = 1000 * (time.monotonic() - pending.submitted_at)
        worker_ms = header["times_ms"]
        times_ms = {name: worker_ms.get(name, 0.0) for name in ("decode", "inference", "explain")}
        times_ms = {"queue": max(0.0, total_ms - sum(times_ms.values())), **times_ms}
        for stage, histogram in self._metrics.stages.items():
            if stage != "explain" or overlay_png:
                histogram.observe(times_ms[stage] / 1000)
        self._metrics.total_s.observe(total_ms / 1000)
        self._metrics.batch_size.observe(header["batch_size"])
        if not pending.reply.done():
            times_ms["total"] = total_ms
            pending.reply.set_result(
                WorkerReply(header["top"], times_ms, overlay_png, header.get("unknown"), header.get("labels"))
            )

    def _fail_sent(self, process: Process) -> None:
        """Fail the requests whose images an exited worker held; queued requests wait for the next worker."""
        cause = "hung and was killed" if self._hung else _describe_exit(process.returncode)
        self._hung = False
        if self.unavailable_reason is None:
            self.unavailable_reason = f"the worker {cause}; a new one is starting"
        for pending in self._load.sent.values():
            if not pending.reply.done():
                pending.reply.set_exception(
                    RequestError(503, f"the worker {cause} while it held this image; retry in 1 s", retry_after_s=1)
                )
        self._load.sent.clear()
        self._update_gauges()

    def _update_gauges(self) -> None:
        self._metrics.queue.set(len(self._queue))
        self._metrics.in_worker.set(len(self._load.sent))

    async def _kill_when_hung(self) -> None:
        """Kill the worker when it makes no progress any more."""
        while True:
            await asyncio.sleep(HANG_CHECK_INTERVAL_S)
            if self._process is not None and self._load.is_hung():
                self._hung = True
                with suppress(ProcessLookupError):
                    self._process.kill()


def _restart_delay_s(failures: int) -> float:
    return 0.0 if failures <= 1 else min(MAX_RESTART_DELAY_S, 0.5 * 2.0 ** (failures - 2))


def _describe_exit(status: int | None) -> str:
    return f"was killed by signal {-status}" if status is not None and status < 0 else f"exited with status {status}"
