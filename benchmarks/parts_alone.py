"""What a server is measured against: its own parts, in a process of their own, which rests while the server works."""

import os
import statistics
import time
from pathlib import Path
from typing import Literal

import numpy as np

from resnetlab.inference.engines.base import Backend
from resnetlab.inference.predictor import Predictor, load
from resnetlab.serving.worker_supervisor import PASSIVE_OPENMP
from resnetlab.system.cores import usable_cores

_alone: dict[str, Predictor] = {}


def open_alone(model: Path, backend: Backend | Literal["auto"], served: str) -> None:
    """Load what the server has, with all cores, as its worker does."""
    os.environ |= PASSIVE_OPENMP
    predictor = load(model, backend=backend, cores=usable_cores(), callers=1)
    own = f"{predictor.engine.backend} {predictor.engine.precision}"
    if own != served:
        raise RuntimeError(f"the server computes with {served}, what it is measured against with {own}")
    _alone["predictor"] = predictor


def one_alone(pictures: list[bytes], seconds: float) -> float:
    """Return p50 in seconds of decoding one picture and taking it through the network."""
    predictor, times, end = _alone["predictor"], [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        for picture in pictures:
            start = time.perf_counter()
            predictor.rank_classes(predictor.predict_probabilities(predictor.preprocess(picture)[None]), 5)
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def batches_alone(pictures: list[bytes], size: int, seconds: float) -> float:
    """Return images a second of the network alone, at full batches of pictures decoded beforehand."""
    predictor = _alone["predictor"]
    views = np.stack([predictor.preprocess(pictures[at % len(pictures)]) for at in range(size)])
    predictor.engine.logits(views)
    count, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        predictor.engine.logits(views)
        count += size
    return count / (time.perf_counter() - start)
