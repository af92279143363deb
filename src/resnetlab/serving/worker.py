"""The worker process: it holds the model, reads encoded images from standard input, and writes results to stdout.

`worker_supervisor` starts it as `python -m resnetlab.serving.worker SETTINGS`. One thread reads requests, a pool
decodes images, and the main thread runs batches through the network. Images are decoded in this process only. It exits
when its standard input is closed, which happens however the server ends.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from resnetlab.config import ConfigError
from resnetlab.serving.batcher import DynamicBatcher
from resnetlab.serving.ipc import encode_message, read_message
from resnetlab.serving.worker_load import WAITING
from resnetlab.serving.worker_model import load_predictor, min_side, model_info
from resnetlab.system.cores import usable_cores

if TYPE_CHECKING:
    from resnetlab.inference.predictor import Prediction, Predictor

PNG_COMPRESS_LEVEL = 1
"""zlib level of overlays: they are sent once over a fast connection, so speed matters more than size."""
MAX_DETAIL = 500
"""Characters of a reason; a library's message may repeat content of a file."""


@dataclass
class DecodedRequest:
    """A request whose image is decoded."""

    header: Mapping[str, Any]
    """`id`, `top`, `explain`, `memory` (see `worker_load`)."""
    data: bytes
    """The encoded image if an explanation is requested, otherwise empty."""
    pixels: np.ndarray
    """uint8 (height, width, channels): the input of the network."""
    times_ms: dict[str, float]
    """Milliseconds by stage."""


class Worker:
    """A predictor behind a dynamic batcher; results are written to a pipe."""

    def __init__(
        self, predictor: "Predictor", output: BinaryIO, *, settings: Mapping[str, Any], num_threads: int
    ) -> None:
        """Start the decoder threads; `run` starts inference.

        Small images have as many threads as stay within `max_decode_bytes`; large ones are counted before they come.

        Args:
            predictor: The network.
            output: The pipe for results.
            settings: As for `main`.
            num_threads: Number of threads.
        """
        self._predictor = predictor
        self._output = output
        self._output_lock = threading.Lock()
        self._batcher: DynamicBatcher[DecodedRequest] = DynamicBatcher(settings["max_batch"], settings["max_wait_s"])
        self._max_memory = settings["max_decode_bytes"]
        self._large_memory = settings["large_decode_bytes"]
        self._min_side = min_side(predictor)
        threads = {"small": min(num_threads, max(1, self._max_memory // self._large_memory)), "large": num_threads}
        self._pools = {size: ThreadPoolExecutor(number, f"decode-{size}") for size, number in threads.items()}

    def submit(self, header: Mapping[str, Any], data: bytes) -> None:
        """Queue an encoded image for decoding; its result is written later."""
        self._pool(header).submit(self._decode, header, data, self._batcher.reserve())

    def run(self) -> None:
        """Run batches through the network, forever."""
        while True:
            self._run_batch(self._batcher.get_batch())

    def _pool(self, header: Mapping[str, Any]) -> ThreadPoolExecutor:
        """Return the threads for an image: small ones never wait for those that are busy with large ones."""
        return self._pools["large" if header["memory_bytes"] > self._large_memory else "small"]

    def _check_memory(self, header: Mapping[str, Any], data: bytes) -> None:
        """Raise unless decoding takes no more memory than is allowed and than the supervisor has reserved.

        Raises:
            BadImageError: As `read_header`, or if the image was made to look smaller than a decoder sees it, or to
                keep a decoder busy.
            TooLargeError: If decoding takes too much memory.
        """
        from resnetlab.data.images.decode import BadImageError, TooLargeError, read_header
        from resnetlab.data.images.decode_memory import Claim, decode_memory, excessive_blocks

        if reason := excessive_blocks(data):
            raise BadImageError(reason)

        found = read_header(data, self._predictor.max_pixels)
        needed = decode_memory(Claim(found.format, found.height, found.width, found.mode == "CMYK"), self._min_side)
        size = f"{found.width:,} x {found.height:,} pixels"
        if needed > self._max_memory:
            raise TooLargeError(
                f"has {size}; decoding a {found.format} of that size may take {needed >> 20:,} MiB of memory, more "
                f"than {self._max_memory >> 20:,}; send a smaller one, or start "
                "the server with a larger --max-decode-mib"
            )
        if needed > header["memory_bytes"]:
            raise BadImageError(f"has {size}, which its first header contradicts")

    def _decode(self, header: Mapping[str, Any], data: bytes, reservation: AbstractContextManager[None]) -> None:
        from resnetlab.data.images.decode import BadImageError, TooLargeError

        start = time.perf_counter()
        with reservation:
            try:
                self._begin_stage([header], "decode")
                self._check_memory(header, data)
                pixels = self._predictor.preprocess(data)
                times_ms = {"decode": 1000 * (time.perf_counter() - start)}
                self._begin_stage([header], WAITING)
                self._batcher.put(DecodedRequest(header, data if header["explain"] else b"", pixels, times_ms))
            except TooLargeError as error:
                self._write_error(header, 413, f"the image {error}")
            except BadImageError as error:
                self._write_error(header, 422, f"the image cannot be decoded: {error}")
            except MemoryError:
                self._write_error(header, 413, "not enough memory to decode the image")
            except Exception as error:  # a bug in decoding must fail one request, not the worker
                self._write_error(header, 500, f"decoding failed ({type(error).__name__}: {error})")

    def _run_batch(self, batch: list[DecodedRequest]) -> None:
        start = time.perf_counter()
        self._begin_stage([request.header for request in batch], "inference")
        try:
            probabilities = self._predictor.predict_probabilities(np.stack([request.pixels for request in batch]))
        except Exception as error:  # for example non-finite outputs, or out of memory
            for request in batch:
                self._write_error(request.header, 500, f"inference failed ({error or type(error).__name__})")
            return
        inference_ms = 1000 * (time.perf_counter() - start)
        replies = []
        for request, row in zip(batch, probabilities, strict=True):
            request.times_ms["inference"] = inference_ms
            prediction = self._predictor.rank_classes(row[None], min(request.header["top"], len(row)))[0]
            if request.header["explain"]:
                self._begin_stage([request.header], WAITING)
                self._pool(request.header).submit(self._explain, request, prediction, len(batch))
            else:
                replies.append(self._encode_reply(request, prediction, len(batch)))
        self._write(b"".join(replies))

    def _explain(self, request: DecodedRequest, prediction: "Prediction", batch_size: int) -> None:
        from resnetlab.inference.engine_factory import ChangedFileError

        start = time.perf_counter()
        self._begin_stage([request.header], "explain")
        try:
            from resnetlab.inference.explain import render_overlay

            overlay = render_overlay(self._predictor, prediction, encoded=request.data, view=request.pixels)
            png = BytesIO()
            overlay.save(png, "PNG", compress_level=PNG_COMPRESS_LEVEL)
        except ChangedFileError:  # its message has a path of this machine
            detail = "the model file has changed since the server started, so there are no heat maps; restart it"
            self._write_error(request.header, 503, detail)
        except ConfigError as error:  # a package is not installed
            self._write_error(request.header, 501, str(error))
        except Exception as error:
            self._write_error(request.header, 500, f"the explanation failed ({type(error).__name__}: {error})")
        else:
            request.times_ms["explain"] = 1000 * (time.perf_counter() - start)
            self._write(self._encode_reply(request, prediction, batch_size, png.getvalue()))

    def _encode_reply(
        self, request: DecodedRequest, prediction: "Prediction", batch_size: int, overlay_png: bytes = b""
    ) -> bytes:
        header = {
            "id": request.header["id"],
            "top": prediction.top,
            "unknown": None if self._predictor.reject_below is None else prediction.is_unknown,
            "labels": prediction.labels,
            "times_ms": request.times_ms,
            "batch_size": batch_size,
        }
        return encode_message(header, overlay_png)

    def _begin_stage(self, headers: Sequence[Mapping[str, Any]], stage: str) -> None:
        """Report that a stage of some images begins, so that the supervisor knows that they make progress."""
        self._write(encode_message({"ids": [header["id"] for header in headers], "stage": stage}))

    def _write_error(self, header: Mapping[str, Any], status: int, detail: str) -> None:
        self._write(
            encode_message({"id": header["id"], "status": status, "detail": " ".join(detail.split())[:MAX_DETAIL]})
        )

    def _write(self, messages: bytes) -> None:
        with self._output_lock:
            self._output.write(messages)
            self._output.flush()


def main(settings: Mapping[str, Any]) -> None:
    """Load the model, report it to the supervisor, and process requests.

    Args:
        settings: `model` (path), `backend`, `cores` and `reject_below` (each may be `None`), `max_batch`,
            `max_wait_s`, `max_pixels`, `max_decode_bytes`, `large_decode_bytes` (as in `Limits`).
    """
    for signum in (signal.SIGINT, signal.SIGTERM):  # only the server handles them; it drains and then ends the worker
        signal.signal(signum, signal.SIG_IGN)
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output that libraries print must not mix with messages
    worker_ready: Future[Worker] = Future()

    def read_requests() -> None:
        while (message := read_message(sys.stdin.buffer)) is not None:
            worker_ready.result().submit(*message)
        os._exit(0)

    # Started before the model is loaded, so that the process also exits when the server ends during loading.
    threading.Thread(target=read_requests, name="read-requests", daemon=True).start()
    num_threads = settings["cores"] or usable_cores()
    try:
        predictor, batch_s = load_predictor(settings, num_threads)
        worker = Worker(predictor, output, settings=settings, num_threads=num_threads)
    except Exception as error:
        failure = {"error": str(error) or type(error).__name__, "is_config_error": isinstance(error, ConfigError)}
        output.write(encode_message(failure))
        output.flush()
        os._exit(1)
    worker_ready.set_result(worker)
    output.write(encode_message({"ready": model_info(predictor), "min_side": min_side(predictor), "batch_s": batch_s}))
    output.flush()
    worker.run()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
