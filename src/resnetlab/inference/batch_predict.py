"""Many pictures through one network: in order, as they come, with a bounded number of them in memory.

Each worker reads and decodes a batch and takes it through the network itself, with one thread of whatever computes it:
every core is busy whatever share of the work decoding is, no thread waits for another's part of a layer, and nobody has
to split the cores beforehand. Decoders and runtimes let go of Python's lock meanwhile.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np

from resnetlab.data.images.decode import BadImageError
from resnetlab.inference.inputs import ImageInput
from resnetlab.inference.predictor import Prediction, Predictor

AHEAD = 2
"""Batches that wait for a worker, or for the one before them to be handed on."""
PIXELS = 8 * 224 * 224
"""Pixels of a batch: on one core a larger one is no faster, and its answers come later."""
LARGEST = 128
EXPLAINED = 8
"""Images of a batch that is drawn as well: each drawing takes some 0.7 MB, and longer than the network."""

Also = Callable[[bytes, np.ndarray, Prediction], Any]
"""Given an encoded picture, what the network saw of it, uint8 (side, side, channels), and what it said."""


@dataclass(frozen=True)
class BatchResult:
    """What came of one input: a prediction, or an error."""

    name: str
    prediction: Prediction | None
    error: str = ""
    also: Any = None
    """What `also` made of it."""


def default_batch_size(image_size: int, *, explained: bool = False) -> int:
    """Return how many images of that side, in pixels, go through the network together."""
    return max(1, min(EXPLAINED if explained else LARGEST, PIXELS // image_size**2))


def predict_batches(
    predictor: Predictor,
    pictures: Iterable[ImageInput | None],
    *,
    top: int = 5,
    batch_size: int = 32,
    workers: int = 1,
    also: Also | None = None,
) -> Generator[BatchResult, None, None]:
    """Yield an answer for each picture, in order. Close it, or leave it, and its workers end.

    At most `workers + AHEAD` batches have begun that were not yet handed on; each worker holds one encoded file, or
    with `also` those of its batch. A `None` among the pictures says that nothing more comes for now: what has come is
    not kept waiting.

    Raises:
        BrokenNetworkError: where probabilities are not finite.
    """
    begun: SimpleQueue[Future[list[BatchResult]] | BaseException | None] = SimpleQueue()
    room = threading.Semaphore(workers + AHEAD)
    stopped = threading.Event()
    pool = ThreadPoolExecutor(workers, "predict")
    work = partial(_answer, predictor, top=top, also=also, stopped=stopped)

    def feed() -> None:
        try:
            for batch in _batches(pictures, batch_size):
                room.acquire()
                if stopped.is_set():
                    return
                begun.put(pool.submit(work, batch))
            begun.put(None)
        except BaseException as error:
            begun.put(error)

    # A daemon: it may wait for a name on standard input that never comes.
    threading.Thread(target=feed, name="inputs", daemon=True).start()
    try:
        while (batch := begun.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield from batch.result()
            room.release()
    finally:
        stopped.set()
        room.release()
        pool.shutdown(cancel_futures=True)


def _batches(pictures: Iterable[ImageInput | None], batch_size: int) -> Iterator[list[ImageInput]]:
    batch: list[ImageInput] = []
    for picture in pictures:
        if picture is not None:
            batch.append(picture)
        if batch and (picture is None or len(batch) == batch_size):
            yield batch
            batch = []
    if batch:
        yield batch


def _answer(
    predictor: Predictor, batch: Sequence[ImageInput], *, top: int, also: Also | None, stopped: threading.Event
) -> list[BatchResult]:
    """Read, decode and judge a batch."""
    found: list[BatchResult] = []
    seen: list[tuple[int, np.ndarray, bytes]] = []
    for one in batch:
        if stopped.is_set():
            return []
        error = ""
        try:
            data = one.read()
            seen.append((len(found), predictor.view(data), data if also else b""))
        except BadImageError as reason:
            error = str(reason)
        except MemoryError:
            error = "needs more memory than there is"
        found.append(BatchResult(one.name, None, error))
    if seen:
        said = predictor.named(predictor.judge(np.stack([view for _, view, _ in seen])), top)
        for (at, view, data), prediction in zip(seen, said, strict=True):
            if stopped.is_set():
                return []
            found[at] = BatchResult(found[at].name, prediction, "", also(data, view, prediction) if also else None)
    return found
