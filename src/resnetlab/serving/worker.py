"""The process that has the network: encoded images in, answers out, over pipes. Images are decoded nowhere else.

Started by `crew.py` as `python -m resnetlab.serving.worker SETTINGS`. One thread reads what is asked, some decode, one
takes batches through the network. It ends when its standard input does: when the server stops, however it stops.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from resnetlab.config import ConfigError
from resnetlab.serving.batcher import DynamicBatcher
from resnetlab.serving.ipc import encode_message, read_message
from resnetlab.system.cores import usable_cores

if TYPE_CHECKING:
    from resnetlab.inference.predictor import Prediction, Predictor

PNG_EFFORT = 1
"""zlib's level: a drawing is sent once, over a fast line."""


@dataclass
class DecodedRequest:
    """An image on its way through."""

    asked: Mapping[str, Any]
    """`id`, `top`, `explain`."""
    data: bytes
    """Its bytes, where they are still needed."""
    view: np.ndarray
    ready: float
    """When it was decoded, of `time.perf_counter`."""
    ms: dict[str, float] = field(default_factory=dict)
    """Of each part of the work."""


class Worker:
    """A predictor that answers frames."""

    def __init__(self, predictor: "Predictor", out: BinaryIO, max_batch: int, max_wait_s: float, cores: int) -> None:
        self._predictor = predictor
        self._out = out
        self._writing = threading.Lock()
        self._gathering: DynamicBatcher[DecodedRequest] = DynamicBatcher(max_batch, max_wait_s)
        self._pool = ThreadPoolExecutor(cores, "decode")

    def take(self, asked: Mapping[str, Any], data: bytes) -> None:
        """Have an image answered, some time later."""
        self._pool.submit(self._decode, asked, data, self._gathering.expect())

    def run(self) -> None:
        """Take batches through the network, for ever."""
        while True:
            self._judge(self._gathering.take())

    def _decode(self, asked: Mapping[str, Any], data: bytes, expected: Any) -> None:
        from resnetlab.data.images.decode import BadImageError, TooLargeError

        begun = time.perf_counter()
        with expected:
            try:
                view = self._predictor.view(data)
                done = time.perf_counter()
                self._gathering.put(
                    DecodedRequest(
                        asked, data if asked["explain"] else b"", view, done, {"decode": 1000 * (done - begun)}
                    )
                )
            except TooLargeError as error:
                self._refuse(asked, 413, f"the image {error}")
            except BadImageError as error:
                self._refuse(asked, 422, f"the image cannot be decoded: {error}")
            except MemoryError:
                self._refuse(asked, 413, "the image needs more memory than there is")
            except Exception as error:  # a fault of ours: it must cost one image, and no more
                self._refuse(asked, 500, f"decoding failed ({type(error).__name__}: {error})")

    def _judge(self, batch: list[DecodedRequest]) -> None:
        begun = time.perf_counter()
        try:
            rows = self._predictor.judge(np.stack([one.view for one in batch]))
        except Exception as error:  # a network that is broken, or memory that is not there
            for one in batch:
                self._refuse(one.asked, 500, f"the network failed ({error or type(error).__name__})")
            return
        took = 1000 * (time.perf_counter() - begun)
        frames = []
        for one, row in zip(batch, rows, strict=True):
            one.ms |= {"wait": 1000 * (begun - one.ready), "inference": took}
            prediction = self._predictor.named(row[None], min(one.asked["top"], len(row)))[0]
            if one.asked["explain"]:
                self._pool.submit(self._explain, one, prediction, len(batch))
            else:
                frames.append(_answer(one, prediction, len(batch)))
        self._write(b"".join(frames))

    def _explain(self, one: DecodedRequest, prediction: "Prediction", size: int) -> None:
        begun = time.perf_counter()
        try:
            from resnetlab.inference.explain import render_overlay

            file = BytesIO()
            render_overlay(self._predictor, one.data, one.view, prediction).save(file, "PNG", compress_level=PNG_EFFORT)
        except ConfigError as error:  # a package that is not installed
            self._refuse(one.asked, 501, str(error))
        except Exception as error:
            self._refuse(one.asked, 500, f"explaining failed ({type(error).__name__}: {error})")
        else:
            one.ms["explain"] = 1000 * (time.perf_counter() - begun)
            self._write(_answer(one, prediction, size, file.getvalue()))

    def _refuse(self, asked: Mapping[str, Any], status: int, detail: str) -> None:
        self._write(encode_message({"id": asked["id"], "status": status, "detail": " ".join(detail.split())}))

    def _write(self, frames: bytes) -> None:
        with self._writing:
            self._out.write(frames)
            self._out.flush()


def _answer(one: DecodedRequest, prediction: "Prediction", size: int, drawing: bytes = b"") -> bytes:
    said = {"id": one.asked["id"], "top": prediction.top, "ms": one.ms, "batch": size}
    return encode_message(said, drawing)


def main(settings: Mapping[str, Any]) -> None:
    """Load the network, tell what it is, answer."""
    for signum in (signal.SIGINT, signal.SIGTERM):  # meant for the server, which lets us finish
        signal.signal(signum, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between frames
    loaded: Future[Worker] = Future()

    def listen() -> None:
        while (frame := read_message(sys.stdin.buffer)) is not None:
            loaded.result().take(*frame)
        os._exit(0)

    threading.Thread(target=listen, name="listen", daemon=True).start()  # now: loading takes long
    try:
        predictor = _load(settings)
        worker = Worker(predictor, out, settings["max_batch"], settings["max_wait_s"], _cores(settings))
    except Exception as error:
        out.write(
            encode_message({"failed": str(error) or type(error).__name__, "mistake": isinstance(error, ConfigError)})
        )
        out.flush()
        os._exit(1)
    loaded.set_result(worker)
    out.write(encode_message({"ready": _introduce(predictor)}))
    out.flush()
    worker.run()


def _cores(settings: Mapping[str, Any]) -> int:
    return settings["cores"] or usable_cores()


def _load(settings: Mapping[str, Any]) -> "Predictor":
    """Open the network, and let it run once at both ends of what it will be asked: first runs are slow."""
    from resnetlab.inference.predictor import load

    predictor = load(settings["model"], backend=settings["backend"], cores=_cores(settings), callers=1, tell=_say)
    predictor.max_pixels = settings["max_pixels"]
    size, channels = predictor.preprocessing.image_size, predictor.card.model.in_channels
    for images in (settings["max_batch"], 1):
        predictor.judge(np.zeros((images, size, size, channels), np.uint8))
    return predictor


def _say(line: str) -> None:
    print(f"resnetlab: {line}", file=sys.stderr, flush=True)


def _introduce(predictor: "Predictor") -> dict[str, Any]:
    """Return what `/v1/model` says of the network."""
    card = predictor.card
    preprocessing = asdict(card.preprocessing)
    del preprocessing["pixel_mean"]  # a number a pixel
    return {
        "name": card.model.name,
        "classes": list(card.classes),
        "image_size": card.preprocessing.image_size,
        "channels": card.model.in_channels,
        "preprocessing": preprocessing,
        "error": card.error,
        "backend": predictor.engine.backend,
        "precision": predictor.engine.precision,
    }


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
