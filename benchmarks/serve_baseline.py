"""The baseline for a server: decoding and the network alone, in a process that is idle while the server is measured."""

import os
import statistics
import time
from pathlib import Path
from typing import Literal

import numpy as np

from resnetlab.inference.backend_selection import engine_name
from resnetlab.inference.engines.base import Backend
from resnetlab.inference.predictor import Predictor, load
from resnetlab.serving.worker_supervisor import PASSIVE_OPENMP
from resnetlab.system.cores import usable_cores

_loaded: dict[str, Predictor] = {}


def load_baseline(model: Path, backend: Backend | Literal["auto"], server_backend: str) -> None:
    """Load the model as the server's worker does, with all cores.

    Args:
        model: The model file.
        backend: As for `resnetlab serve`.
        server_backend: Backend and precision that the server reports, such as `torch fp32`.

    Raises:
        RuntimeError: If `auto` selects another backend than the server has.
    """
    os.environ |= PASSIVE_OPENMP
    predictor = load(model, backend=backend, cores=usable_cores(), callers=1)
    own_backend = engine_name(predictor.engine)
    if own_backend != server_backend:
        raise RuntimeError(f"the server uses {server_backend}, the baseline {own_backend}; pass --backend")
    _loaded["predictor"] = predictor


def single_image_p50_s(images: list[bytes], duration_s: float) -> float:
    """Return the median time in seconds to decode one image and run it through the network."""
    predictor, times_s, end = _loaded["predictor"], [], time.perf_counter() + duration_s
    while time.perf_counter() < end:
        for image in images:
            start = time.perf_counter()
            predictor.rank_classes(predictor.predict_probabilities(predictor.preprocess(image)[None]), 5)
            times_s.append(time.perf_counter() - start)
    return statistics.median(times_s)


def full_batches_per_s(images: list[bytes], batch_size: int, duration_s: float) -> float:
    """Return images per second of the network alone, with full batches of decoded images."""
    predictor = _loaded["predictor"]
    batch = np.stack([predictor.preprocess(images[index % len(images)]) for index in range(batch_size)])
    predictor.engine.logits(batch)
    num_images, start = 0, time.perf_counter()
    while time.perf_counter() < start + duration_s:
        predictor.engine.logits(batch)
        num_images += batch_size
    return num_images / (time.perf_counter() - start)
