"""Prediction of many images by several threads: in order, as a stream, with a bounded number of images in memory.

Each worker reads, decodes and predicts whole batches, and the runtime uses one thread a call. So every core is busy
whatever share of the work decoding is, no thread waits for another's part of a layer, and the cores need not be divided
between decoding and inference. Decoders and runtimes release Python's global lock.
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
from resnetlab.inference.embedding import embed_views
from resnetlab.inference.inputs import ImageInput
from resnetlab.inference.predictor import Prediction, Predictor

PREFETCH_BATCHES = 2
"""Batches beyond one a worker that wait for a worker or for their turn in the output."""
BATCH_PIXELS = 8 * 224 * 224
"""Pixels of a batch. A larger one is no faster on one core, and its results arrive later."""
MAX_BATCH_SIZE = 128
MAX_RENDERED_BATCH_SIZE = 8
"""Largest batch with overlays: one takes about 0.7 MB, and more time than the network."""

RenderOverlay = Callable[[bytes, np.ndarray, Prediction], Any]
"""Makes the overlay of an encoded image, its view, uint8 (height, width, channels), and its prediction."""


@dataclass(frozen=True)
class BatchResult:
    """The result for one input: a prediction, or an error."""

    name: str
    prediction: Prediction | None
    error: str = ""
    overlay: Any = None
    """The return value of `render`."""
    features: np.ndarray | None = None
    """With `embed`: the input of the network's head, float32 (channels,)."""


def default_batch_size(num_pixels: int, *, with_overlays: bool = False) -> int:
    """Return the batch size for network inputs of `num_pixels` pixels."""
    largest = MAX_RENDERED_BATCH_SIZE if with_overlays else MAX_BATCH_SIZE
    return max(1, min(largest, BATCH_PIXELS // num_pixels))


def predict_batches(
    predictor: Predictor,
    inputs: Iterable[ImageInput | None],
    *,
    top: int = 5,
    batch_size: int = 32,
    workers: int = 1,
    render: RenderOverlay | None = None,
    embed: bool = False,
) -> Generator[BatchResult, None, None]:
    """Yield the result of each input, in order. Closing the generator ends its workers.

    At most `workers + PREFETCH_BATCHES` batches are started and not yet yielded. Each worker holds one encoded file in
    memory, or with `render` those of its batch.

    Args:
        predictor: The network.
        inputs: The images. `None` means that the next one is not available yet: the batch so far is predicted at once.
        top: Number of classes in each prediction.
        batch_size: Images in a batch.
        workers: Threads.
        render: Makes an overlay of each image.
        embed: Return the features of each image too.

    Raises:
        BrokenNetworkError: The probabilities are not finite.
    """
    started: SimpleQueue[Future[list[BatchResult]] | BaseException | None] = SimpleQueue()
    slots = threading.Semaphore(workers + PREFETCH_BATCHES)
    stopped = threading.Event()
    pool = ThreadPoolExecutor(workers, "predict")
    predict = partial(_predict_batch, predictor, top=top, render=render, embed=embed, stopped=stopped)

    def submit_batches() -> None:
        try:
            for batch in _batches(inputs, batch_size):
                slots.acquire()
                if stopped.is_set():
                    return
                started.put(pool.submit(predict, batch))
            started.put(None)
        except BaseException as error:
            started.put(error)

    # A daemon thread: it may block on standard input for ever.
    threading.Thread(target=submit_batches, name="inputs", daemon=True).start()
    try:
        while (batch := started.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield from batch.result()
            slots.release()
    finally:
        stopped.set()
        slots.release()
        pool.shutdown(cancel_futures=True)


def _batches(inputs: Iterable[ImageInput | None], batch_size: int) -> Iterator[list[ImageInput]]:
    batch: list[ImageInput] = []
    for image in inputs:
        if image is not None:
            batch.append(image)
        if batch and (image is None or len(batch) == batch_size):
            yield batch
            batch = []
    if batch:
        yield batch


def _predict_batch(
    predictor: Predictor,
    batch: Sequence[ImageInput],
    *,
    top: int,
    render: RenderOverlay | None,
    embed: bool,
    stopped: threading.Event,
) -> list[BatchResult]:
    """Read, decode and predict a batch."""
    results: list[BatchResult] = []
    decoded: list[tuple[int, np.ndarray, bytes]] = []
    for image in batch:
        if stopped.is_set():
            return []
        message = ""
        try:
            encoded = image.read()
            decoded.append((len(results), predictor.preprocess(encoded), encoded if render else b""))
        except BadImageError as error:
            message = str(error)
        except MemoryError:
            message = "needs more memory than is available"
        results.append(BatchResult(image.name, None, message))
    if decoded:
        views = np.stack([view for _, view, _ in decoded])
        if embed:
            features, probabilities = embed_views(predictor, views)
        else:
            features, probabilities = [None] * len(views), predictor.predict_probabilities(views)
        predictions = predictor.rank_classes(probabilities, top)
        for (index, view, encoded), prediction, row in zip(decoded, predictions, features, strict=True):
            if stopped.is_set():
                return []
            overlay = render(encoded, view, prediction) if render else None
            results[index] = BatchResult(results[index].name, prediction, overlay=overlay, features=row)
    return results
