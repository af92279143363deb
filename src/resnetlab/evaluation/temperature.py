"""Temperature scaling: one number that divides the logits, so that confidence agrees with accuracy.

It is the number with the lowest cross entropy on held-out images. It changes probabilities, but no ranking of classes.

Paper: Guo et al., "On Calibration of Modern Neural Networks", 2017, section 4.2.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import log_softmax
from torch import Tensor

from resnetlab.config import ConfigError, DataConfig
from resnetlab.evaluation.class_matching import check_one_class
from resnetlab.evaluation.evaluator import open_members
from resnetlab.evaluation.metrics import calibration_error_pct, reliability_curve
from resnetlab.evaluation.options import EvaluationOptions
from resnetlab.evaluation.protocols import LogProbBatches
from resnetlab.evaluation.summary import is_training_data_known
from resnetlab.models.model_card import TemperatureScaling
from resnetlab.models.model_file import load_model, save_model
from resnetlab.system.process_group import ProcessGroup

RANGE = (0.05, 20.0)
"""Temperatures that are searched. Beyond them the images say nothing about confidence: all are right, or none helps."""
BLOCK_VALUES = 1 << 22
"""Values that are in double precision at a time: 32 MiB."""


class TemperatureError(RuntimeError):
    """Images from which no temperature follows; the message has the reason."""


@dataclass(frozen=True, kw_only=True)
class LogProbs:
    """Log-probabilities of a network, and labels, one row for each image."""

    positions: np.ndarray
    """Index of each image in the split, ascending: int64 (num_images,)."""
    values: np.ndarray
    """float32 (num_images, num_classes); they equal the logits up to a constant for each image."""
    labels: np.ndarray
    """int64 (num_images,)."""


def collect_log_probs(batches: LogProbBatches, samples: Tensor) -> LogProbs:
    """Collect log-probabilities in the order of the split; images that cannot be decoded have no row.

    Args:
        batches: Their positions index `samples`.
        samples: Index in the split of each image that is evaluated here: int64 (num_samples,).
    """
    values, labels, end = np.zeros((0, 0), np.float32), np.zeros(len(samples), np.int64), 0
    rows_of = np.zeros(len(samples), np.int64)
    for positions, batch_labels, log_probs in batches:
        if not len(values):
            values = np.zeros((len(samples), log_probs.shape[1]), np.float32)
        rows = slice(end, end + len(positions))
        rows_of[rows], labels[rows], values[rows] = samples[positions].numpy(), batch_labels.numpy(), log_probs.numpy()
        end = rows.stop
    return merge_log_probs([LogProbs(positions=rows_of[:end], values=values[:end], labels=labels[:end])])


def merge_log_probs(parts: Sequence[LogProbs]) -> LogProbs:
    """Return the rows of all parts in the order of the split, whichever process computed them; some may be empty."""
    parts = [part for part in parts if len(part.labels)] or list(parts[:1])
    order = np.argsort(np.concatenate([part.positions for part in parts]), kind="stable")
    merged = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])[order] for field in fields(LogProbs)
    }
    return LogProbs(**merged)


def fit_temperature(log_probs: LogProbs, *, split: str) -> TemperatureScaling:
    """Return the temperature with the lowest mean cross entropy.

    The cross entropy is convex in the inverse temperature, so the root of its derivative is the only minimum.

    Args:
        log_probs: Of held-out images, without a temperature.
        split: Name of their split, such as `val`.

    Raises:
        TemperatureError: If there are no images, a probability is not finite, or no temperature in `RANGE` has the
            lowest cross entropy.
    """
    if not len(log_probs.labels):
        raise TemperatureError(f"no temperature can be fitted: no image of the {split} split can be decoded")
    if not np.isfinite(log_probs.values).all():
        raise TemperatureError("no temperature can be fitted: the network's outputs are not finite")

    def slope(log_inverse: float) -> float:
        return _loss_and_slope(log_probs, math.exp(log_inverse))[1]

    low, high = -math.log(RANGE[1]), -math.log(RANGE[0])
    if slope(low) >= 0:
        raise TemperatureError(
            f"no temperature can be fitted: the network is no better than chance on the {len(log_probs.labels):,} "
            f"images of the {split} split"
        )
    if slope(high) <= 0:
        raise TemperatureError(
            f"no temperature can be fitted: the network classifies (nearly) all {len(log_probs.labels):,} images of "
            f"the {split} split correctly, so they do not show how often it errs; give more images"
        )
    temperature = math.exp(-float(brentq(slope, low, high, xtol=1e-9)))  # pyright: ignore[reportArgumentType]
    return TemperatureScaling(
        temperature=temperature,
        split=split,
        num_images=len(log_probs.labels),
        loss_before=_loss_and_slope(log_probs, 1.0)[0],
        loss_after=_loss_and_slope(log_probs, 1 / temperature)[0],
        ece_before_pct=_ece_pct(log_probs, 1.0),
        ece_after_pct=_ece_pct(log_probs, 1 / temperature),
    )


def store_temperature(file: Path, scaling: TemperatureScaling) -> None:
    """Store a temperature in the card of a model file, with new checksums; the weights stay as they are.

    Raises:
        ModelFileError: If the file is missing, damaged, or no resnetlab model file.
        OSError: If it cannot be written; it then stays unchanged.
    """
    model, card = load_model(file)
    save_model(file, model, replace(card, temperature_scaling=scaling))


def _loss_and_slope(log_probs: LogProbs, inverse: float) -> tuple[float, float]:
    """Return the mean cross entropy at an inverse temperature, and its derivative with respect to that number."""
    loss = slope = 0.0
    for logits, labels in _blocks(log_probs):
        scaled = log_softmax(inverse * logits, axis=1)
        rows = np.arange(len(labels))
        loss -= float(scaled[rows, labels].sum())
        slope += float((np.exp(scaled) * logits).sum() - logits[rows, labels].sum())
    return loss / len(log_probs.labels), slope / len(log_probs.labels)


def _ece_pct(log_probs: LogProbs, inverse: float) -> float:
    confidence, correct = [], []
    for logits, labels in _blocks(log_probs):
        confidence.append(np.exp(log_softmax(inverse * logits, axis=1).max(1)))
        correct.append(logits.argmax(1) == labels)
    error = calibration_error_pct(reliability_curve(np.concatenate(confidence), np.concatenate(correct)))
    assert error is not None  # there is at least one image
    return error


def _blocks(log_probs: LogProbs) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield some rows of logits in double precision, and their labels."""
    size = max(1, BLOCK_VALUES // log_probs.values.shape[1])
    for start in range(0, len(log_probs.labels), size):
        rows = slice(start, start + size)
        yield log_probs.values[rows].astype(np.float64), log_probs.labels[rows]


def fit_model_file(
    file: Path,
    data: DataConfig | None,
    options: EvaluationOptions,
    *,
    process_group: ProcessGroup,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> TemperatureScaling:
    """Fit the temperature of a model file on the validation split, and store it in the file.

    Args:
        file: The model file.
        data: The data set whose validation split is used; that of the training if not given.
        options: Runtime; split and protocol are `val` and one crop.
        process_group: Processes that share the images; the first one writes the file.
        on_progress: As for `open_members`.

    Raises:
        ConfigError: As `open_members`, such as for data without a validation split; or if the network may have been
            trained on these images.
        TemperatureError: As `fit_temperature`.
        OSError: If the file cannot be written; it then stays unchanged.
    """
    options = replace(options, protocol="one-crop", split="val", sides=(), backend=None)
    (member,) = open_members([file], data, options, on_progress=on_progress, process_group=process_group)
    check_one_class(multi_label=member.is_multi_label, name=member.dataset.title, use="a temperature")
    if member.dataset.seen_in_training:
        raise ConfigError(f"{file}: its network was trained on these images; a temperature needs held-out ones")
    given = member.dataset.listing is not None and "val" in member.dataset.listing.splits
    if not given and not is_training_data_known(member.card):
        raise ConfigError(
            f"{file} does not say on which images its network was trained, and {member.dataset.title} comes without a "
            "validation split: images that are held out now may be among them; name data with folders train and val"
        )
    unscaled = replace(member, card=replace(member.card, temperature_scaling=None))
    samples = torch.arange(len(member.labels))[process_group.rank :: process_group.size]
    part = collect_log_probs(unscaled.log_probs(options, samples), samples)
    scaling = fit_temperature(merge_log_probs(process_group.all_gather(part)), split="val")
    process_group.run_on_first(lambda: store_temperature(file, scaling))
    return scaling
