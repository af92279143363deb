"""`WorkerLoad`: large images have a budget of their own, and a worker counts as hung from its last progress."""

import asyncio
import io
import itertools
import queue
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from helpers.exported_files import metadata_text, write_export
from helpers.odd_images import encode_as, lossless_of_size, png_of_size, tiff_of_size

pytest.importorskip("fastapi")

from resnetlab.inference.predictor import load
from resnetlab.serving import worker_load as module
from resnetlab.serving.ipc import read_message
from resnetlab.serving.limits import Limits
from resnetlab.serving.worker import Worker
from resnetlab.serving.worker_load import PendingRequest, WorkerLoad

SMALL = encode_as("png")
LARGE = lossless_of_size(4000, 4000)
"""Half of the default budget."""
IDS = itertools.count()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; the test sets `now`."""

    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def pending(load: WorkerLoad, data: bytes) -> PendingRequest:
    loop = asyncio.new_event_loop()
    request = PendingRequest(next(IDS), data, top=1, explain=False, reply=loop.create_future(), submitted_at=0)
    loop.close()
    load.reserve(request)
    return request


def test_small_images_pass_large_ones_that_exceed_the_budget():
    load = WorkerLoad(Limits())
    for _ in range(2):
        image = pending(load, LARGE)
        if load.fits(image):
            load.add(image)
    assert len(load.sent) == 1
    for _ in range(30):
        image = pending(load, SMALL)
        assert load.fits(image)
        load.add(image)
    load.remove(next(iter(load.sent)))
    assert load.fits(pending(load, LARGE))


def test_the_number_of_images_is_limited():
    load = WorkerLoad(Limits(max_batch=1))
    for fits in (True, True, False):
        image = pending(load, SMALL)
        assert load.fits(image) == fits
        if fits:
            load.add(image)


@pytest.mark.parametrize(
    ("data", "memory"),
    [
        (lossless_of_size(9900, 9900), 0),
        (png_of_size(SMALL, 50_000, 50_000), 0),
        (tiff_of_size(encode_as("tif"), 60_000, 60_000), 0),
        (b"\xff\xd8\xff" + bytes(50), Limits().max_decode_bytes),
    ],
)
def test_what_the_worker_rejects_needs_no_memory_and_what_is_unknown_may_need_all(data, memory):
    assert pending(WorkerLoad(Limits()), data).memory_bytes == memory


def test_waiting_in_the_worker_is_no_hang(clock):
    load = WorkerLoad(Limits(timeout_s=1))
    images = [pending(load, SMALL) for _ in range(20)]
    for image in images:
        load.add(image)
    for image in images:  # the last one is sent 40 s before its reply
        clock.now += 1
        load.begin_stage([image.id], "decode")
        assert not load.is_hung()
        clock.now += 1
        load.remove(image.id)
        assert not load.is_hung()


def test_a_worker_without_any_message_is_hung(clock):
    load = WorkerLoad(Limits(timeout_s=1))
    clock.now += 1000  # idle
    assert not load.is_hung()
    load.add(pending(load, SMALL))
    clock.now += 2.9
    assert not load.is_hung()
    clock.now += 0.3
    assert load.is_hung()


def test_one_image_that_never_ends_is_a_hang_although_others_do(clock):
    load = WorkerLoad(Limits(timeout_s=1))
    stuck = pending(load, SMALL)
    load.add(stuck)
    load.begin_stage([stuck.id], "decode")
    for _ in range(7):
        other = pending(load, SMALL)
        load.add(other)
        load.begin_stage([other.id], "decode")
        clock.now += 0.5
        load.remove(other.id)
    assert load.is_hung()
    load.remove(stuck.id)
    assert not load.is_hung()


def test_a_decoded_image_that_waits_for_the_network_is_no_hang(clock):
    load = WorkerLoad(Limits(timeout_s=1))
    waiting, others = pending(load, SMALL), [pending(load, SMALL) for _ in range(7)]
    for image in (waiting, *others):
        load.add(image)
    load.begin_stage([waiting.id], "decode")
    load.begin_stage([waiting.id], module.WAITING)
    for other in others:
        load.begin_stage([other.id], "inference")
        clock.now += 0.9
        assert not load.is_hung()
        load.remove(other.id)
    load.begin_stage([waiting.id], "inference")
    clock.now += 2.9
    assert not load.is_hung()
    clock.now += 0.3
    assert load.is_hung()


def test_a_batch_may_take_twice_as_long_as_in_the_warm_up(clock):
    load = WorkerLoad(Limits(timeout_s=1))
    load.batch_s = 5.0
    image = pending(load, SMALL)
    load.add(image)
    load.begin_stage([image.id], "inference")
    clock.now += 12.9
    assert not load.is_hung()
    clock.now += 0.3
    assert load.is_hung()


def test_a_large_image_may_take_as_long_as_its_size_needs(clock):
    load = WorkerLoad(Limits(timeout_s=1))
    image = pending(load, LARGE)
    load.add(image)
    load.begin_stage([image.id], "decode")
    clock.now += 3 + image.memory_bytes / module.SLOWEST_DECODING - 0.5
    assert not load.is_hung()
    clock.now += 1
    assert load.is_hung()


SETTINGS = {
    "max_batch": 1,
    "max_wait_s": 0,
    "max_decode_bytes": Limits().max_decode_bytes,
    "large_decode_bytes": Limits().large_decode_bytes,
}


@pytest.mark.parametrize(("cores", "small"), [(1, 1), (4, 4), (64, 8)])
def test_small_images_take_at_most_the_memory_of_the_large_ones(monkeypatch, cores, small):
    """Images up to an eighth of the budget are not counted, so their threads are."""
    monkeypatch.setattr("resnetlab.serving.worker.min_side", lambda _: 1)
    worker = Worker(cast("Any", None), io.BytesIO(), settings=SETTINGS, num_threads=cores)
    threads = {size: pool._max_workers for size, pool in worker._pools.items()}
    assert threads == {"small": small, "large": cores}
    assert threads["small"] * SETTINGS["large_decode_bytes"] <= SETTINGS["max_decode_bytes"]


@pytest.mark.parametrize(("name", "backend"), [("net.onnx", "onnxruntime"), ("net.xml", "openvino")])
def test_a_model_file_that_changes_costs_the_heat_maps_only(tmp_path, name, backend):
    """The graph of the heat maps is read when the first one is asked for; the file may be another one by then."""
    pytest.importorskip(backend)
    worker, messages = _running_worker(write_export(tmp_path / name, metadata_text(name)), backend)
    for number, change in enumerate((lambda: (tmp_path / name).write_text("another file"), (tmp_path / name).unlink)):
        change()
        worker.submit(_header(number, explain=True), SMALL)
        failed = _reply(messages)
        assert (failed["id"], failed["status"]) == (number, 503)
        assert failed["detail"].startswith("the model file has changed since the server started")
        assert str(tmp_path) not in failed["detail"]
    worker.submit(_header(2, explain=False), SMALL)
    assert _reply(messages)["top"]


def _running_worker(file: Path, backend: Any) -> tuple[Worker, "queue.Queue[bytes]"]:
    """Return a worker in this process whose batches run in a thread, and what it writes."""
    messages: queue.Queue[bytes] = queue.Queue()

    class Output(io.RawIOBase):
        def write(self, content: Any) -> int:
            if content:  # nothing, of a batch whose images all get heat maps
                messages.put(bytes(content))
            return len(content)

    predictor = load(file, backend=backend)
    predictor.predict_probabilities(predictor.preprocess(SMALL)[None])  # as the warm-up does
    worker = Worker(predictor, cast("Any", Output()), settings=SETTINGS, num_threads=1)
    threading.Thread(target=worker.run, daemon=True).start()
    return worker, messages


def _header(number: int, *, explain: bool) -> dict[str, Any]:
    return {"id": number, "top": 1, "explain": explain, "memory_bytes": 1 << 24}


def _reply(messages: "queue.Queue[bytes]") -> dict[str, Any]:
    """Return the header of the next message that is not about progress."""
    while True:
        message = read_message(io.BytesIO(messages.get(timeout=60)))
        assert message is not None
        if "stage" not in message[0]:
            return message[0]
