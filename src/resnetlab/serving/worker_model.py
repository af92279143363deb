"""The model of the worker process: its loading and warm-up, and its description."""

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from resnetlab.inference.predictor import Predictor


def load_predictor(settings: Mapping[str, Any], num_threads: int) -> "tuple[Predictor, float]":
    """Load the model and warm it up with the largest and the smallest batch: first runs are slow.

    Returns:
        The predictor, and the seconds of the largest batch.
    """
    from resnetlab.inference.predictor import load
    from resnetlab.inference.probe_images import check_file_channels

    predictor = load(
        settings["model"],
        backend=settings["backend"],
        cores=num_threads,
        callers=1,
        reject_below=settings["reject_below"],
        log=_log,
    )
    predictor.max_pixels = settings["max_pixels"]
    check_file_channels(predictor.card.model.in_channels)
    shape = (*predictor.preprocessing.input_size, predictor.card.model.in_channels)
    start_s = time.perf_counter()
    predictor.predict_probabilities(np.zeros((settings["max_batch"], *shape), np.uint8))
    batch_s = time.perf_counter() - start_s
    predictor.predict_probabilities(np.zeros((1, *shape), np.uint8))
    return predictor, batch_s


def min_side(predictor: "Predictor") -> int:
    """Return the pixels that the shorter side of a JPEG keeps when it is decoded for an overlay, the larger use."""
    from resnetlab.data.images.eval_view import EvalView
    from resnetlab.inference.explain import MIN_SIDE

    return EvalView.of(predictor.preprocessing).at_least(MIN_SIDE).jpeg_min_side


def _log(line: str) -> None:
    print(f"resnetlab: {line}", file=sys.stderr, flush=True)


def model_info(predictor: "Predictor") -> dict[str, Any]:
    """Return the description of the model that `/v1/model` returns."""
    from resnetlab.inference.backend_selection import engine_name

    card = predictor.card
    preprocessing = asdict(card.preprocessing)
    del preprocessing["pixel_mean"]  # one number per pixel: too large for a response
    return {
        "name": card.model.name,
        "classes": list(card.classes),
        "image_size": card.preprocessing.image_size,
        "channels": card.model.in_channels,
        "preprocessing": preprocessing,
        "error": card.error,
        "temperature": card.temperature,
        "reject_below": predictor.reject_below,
        "thresholds": None if card.multi_label is None else list(card.multi_label.thresholds),
        "backend": predictor.engine.backend,
        "precision": predictor.engine.precision,
        "runtime": engine_name(predictor.engine),
    }
