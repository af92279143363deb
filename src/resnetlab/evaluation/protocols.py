"""Test protocols on a split: one crop, ten crops, multiple scales, ensembles.

Each protocol yields batches of positions, labels and log-probabilities, and each sample of the split once. A protocol
that evaluates an image several times averages the probabilities, as in the paper's reference [21].
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnetlab.config import ConfigError, Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.data.loader import thread_pool
from resnetlab.evaluation.chance import chance_entry, macro_error_pct
from resnetlab.evaluation.crops import (
    check_ten_crops,
    normalise_images,
    resize_shorter_side,
    ten_crops,
    uncropped_images,
)
from resnetlab.evaluation.logits import (
    MAX_PIXELS,
    Network,
    compute_logits,
    external_preprocessing,
    network_evaluation_mode,
    one_crop_logits,
)
from resnetlab.evaluation.predictions import NO_PREDICTIONS, Predictions, merge_predictions
from resnetlab.system.process_group import ProcessGroup

MAX_WHOLE_IMAGES = 64
"""Maximum number of whole images in memory at a time; those of equal shape form a batch."""
TOP_K = 5

LogProbBatches = Iterator[tuple[Tensor, Tensor, Tensor]]
"""Positions int64 (batch,), labels int64 (batch,), log-probabilities float64 (batch, num_classes); on the CPU."""


@dataclass(frozen=True)
class SplitScore:
    """Error and loss of a network on a split; each sample counts once."""

    num_samples: int
    """Samples evaluated."""
    num_wrong: int
    loss: float
    """Mean cross entropy in nats."""
    class_counts: tuple[int, ...] = ()
    """Samples of each class, by label."""
    class_wrong: tuple[int, ...] = ()
    """Samples of each class with another answer, by label."""

    @property
    def error_pct(self) -> float:
        """Top-1 error in %: the share of samples whose most probable class is not the label."""
        return 100 * self.num_wrong / self.num_samples

    @property
    def macro_error_pct(self) -> float | None:
        """Mean of the errors of the classes that have samples, in %: each class counts once, whatever its size."""
        return macro_error_pct(self.class_wrong, self.class_counts)

    @property
    def selection_pct(self) -> float:
        """The number that the best epoch has the lowest of: the error in %."""
        return self.error_pct

    def chance(self, classes: Sequence[str]) -> dict[str, Any] | None:
        """Return the chance level as JSON values, as `chance_entry` does; `None` if there is no level."""
        from resnetlab.evaluation.error_rate import error_rate  # loads SciPy, which a run needs at its end only

        interval = error_rate(self.num_wrong, self.num_samples).interval_95_pct
        return chance_entry(self.class_counts, classes, interval)


def score_split(
    model: nn.Module,
    split: Split,
    preprocessing: Preprocessing,
    *,
    workers: int = 0,
    process_group: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
) -> SplitScore:
    """Evaluate a network on a split with one crop, in evaluation mode and fp32; the model's mode is restored.

    fp32 is used whatever precision training used, because that is how the model file will be used. `workers` threads
    decode images that are not resident. The processes of `process_group` share the samples; each returns the whole
    result.

    Raises:
        ConfigError: if no image of the split can be decoded.
    """
    samples = torch.arange(len(split))[process_group.rank :: process_group.size]
    part = split if process_group.size == 1 else split.subset(samples)
    predictions = collect_predictions(one_crop(model, part, preprocessing, workers=workers), len(part))
    predictions = replace(predictions, positions=samples.numpy()[predictions.positions])
    predictions = merge_predictions(process_group.all_gather(predictions))
    wrong = (predictions.top[:, 0] != predictions.labels) | np.isnan(predictions.confidence)
    counts = np.bincount(predictions.labels)
    return SplitScore(
        len(predictions),
        int(wrong.sum()),
        float(predictions.loss.mean()),
        class_counts=tuple(counts.tolist()),
        class_wrong=tuple(np.bincount(predictions.labels[wrong], minlength=len(counts)).tolist()),
    )


def collect_predictions(batches: LogProbBatches, num_samples: int) -> Predictions:
    """Reduce log-probabilities to predictions of at most `num_samples` samples; ties are in class order.

    The result arrays are allocated up front. Small arrays of every batch would otherwise fragment the memory between
    the large ones: 0.7 MiB a batch.
    """
    predictions: Predictions | None = None
    end = 0
    for positions, labels, log_probs in batches:
        if not len(positions):
            continue
        top_k = min(TOP_K, log_probs.shape[1])
        if predictions is None:
            predictions = _allocate_predictions(num_samples, top_k)
        ranked = log_probs.sort(dim=1, descending=True, stable=True)
        rows = slice(end, end + len(positions))
        predictions.positions[rows], predictions.labels[rows] = positions, labels
        predictions.top[rows] = ranked.indices[:, :top_k]
        predictions.confidence[rows] = ranked.values[:, 0].exp()
        predictions.loss[rows] = -log_probs.gather(1, labels[:, None])[:, 0]
        end = rows.stop
    return merge_predictions([predictions.first(end)]) if predictions else NO_PREDICTIONS


def _allocate_predictions(num_samples: int, top_k: int) -> Predictions:
    return Predictions(
        positions=np.zeros(num_samples, np.int64),
        labels=np.zeros(num_samples, np.int64),
        top=np.zeros((num_samples, top_k), np.int64),
        confidence=np.zeros(num_samples),
        loss=np.zeros(num_samples),
    )


def one_crop(
    model: Network, split: Split, preprocessing: Preprocessing, *, workers: int = 0, temperature: float = 1.0
) -> LogProbBatches:
    """Evaluate the centre crop of each image; `temperature` divides the logits (`ModelCard.temperature`).

    Paper: section 4.2, the single original view.
    """
    for positions, labels, logits in one_crop_logits(model, split, preprocessing, workers=workers):
        yield positions, labels, (logits / temperature).log_softmax(1)


def ten_crop(
    model: Network,
    originals: Split,
    preprocessing: Preprocessing,
    *,
    side: int,
    workers: int = 0,
    temperature: float = 1.0,
) -> LogProbBatches:
    """Average the probabilities of the four corners and the centre, each also mirrored.

    Args:
        model: The network.
        originals: Images before resizing and cropping.
        preprocessing: The network's preprocessing; its `image_size` is the size of the crops.
        side: Shorter side of the resized images, in pixels.
        workers: Threads that decode images.
        temperature: Divides the logits of each crop.

    Paper: section 3.4 and Tables 2 and 3.

    Raises:
        ConfigError: if `side` is smaller than a crop, or the network's input is not square.
    """
    check_ten_crops(preprocessing, side)
    size = preprocessing.image_size
    batch_size = max(1, min(MAX_WHOLE_IMAGES, MAX_PIXELS // (10 * size * size)))
    with network_evaluation_mode(model), thread_pool(workers) as pool:
        for positions, images in uncropped_images(originals.images, batch_size, 2 * side, pool=pool):
            crops = np.concatenate(
                [ten_crops(resize_shorter_side(image, side, preprocessing), size) for image in images]
            )
            inputs = normalise_images(crops, external_preprocessing(model, preprocessing))
            log_probs = _log_probabilities(model, inputs, temperature).view(len(images), 10, -1)
            yield positions, originals.labels[positions], _mean_probability(log_probs, dim=1)


def multi_scale(
    model: nn.Module,
    originals: Split,
    preprocessing: Preprocessing,
    *,
    sides: Sequence[int],
    workers: int = 0,
    temperature: float = 1.0,
) -> LogProbBatches:
    """Average the probabilities of whole images at several shorter sides, in pixels.

    The network is fully convolutional: its head is linear and reads the average over positions. Class scores averaged
    over all positions of a larger feature map therefore equal the network's output for that map. `originals` are images
    before resizing and cropping. `temperature` divides the logits at each side.

    Paper: section 3.4 and Table 4.

    Raises:
        ConfigError: if a side is below 1, or there is none.
    """
    if min(sides, default=0) < 1:
        raise ConfigError(f"shorter sides must be at least 1 pixel each, not {', '.join(map(str, sides)) or 'none'}")
    with network_evaluation_mode(model), thread_pool(workers) as pool:
        for positions, images in uncropped_images(originals.images, MAX_WHOLE_IMAGES, 2 * max(sides), pool=pool):
            by_side = [
                _whole_image_log_probs(
                    model,
                    [resize_shorter_side(image, side, preprocessing) for image in images],
                    preprocessing,
                    temperature=temperature,
                )
                for side in sides
            ]
            yield positions, originals.labels[positions], _mean_probability(torch.stack(by_side), dim=0)


def ensemble(members: Sequence[Callable[[], LogProbBatches]], num_samples: int) -> LogProbBatches:
    """Average the probabilities of several networks on the same samples; a single network is passed through.

    Samples that one of the networks could not decode are left out.

    Paper: section 4.1, Table 5.
    """
    if len(members) == 1:
        yield from members[0]()
        return
    total, labels = torch.empty(0), torch.zeros(num_samples, dtype=torch.int64)
    num_members = torch.zeros(num_samples, dtype=torch.int64)
    for member in members:
        for positions, member_labels, log_probs in member():
            if not len(total):
                total = torch.zeros(num_samples, log_probs.shape[1], dtype=torch.float64)
            total[positions] += log_probs.exp()
            labels[positions] = member_labels
            num_members[positions] += 1
    for positions in torch.nonzero(num_members == len(members)).flatten().split(MAX_WHOLE_IMAGES):
        yield positions, labels[positions], (total[positions] / len(members)).log()


def _whole_image_log_probs(
    model: nn.Module, images: Sequence[np.ndarray], preprocessing: Preprocessing, *, temperature: float
) -> Tensor:
    """Return the log-probabilities of whole images in their order; images of equal shape form batches."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_shape.setdefault(image.shape[:2], []).append(index)
    rows: list[Tensor] = [torch.empty(0)] * len(images)
    for (height, width), indices in by_shape.items():
        batch_size = max(1, MAX_PIXELS // (height * width))
        for batch in (indices[start : start + batch_size] for start in range(0, len(indices), batch_size)):
            inputs = normalise_images(np.stack([images[index] for index in batch]), preprocessing)
            for index, row in zip(batch, _log_probabilities(model, inputs, temperature), strict=True):
                rows[index] = row
    return torch.stack(rows)


def _log_probabilities(model: Network, images: Tensor, temperature: float) -> Tensor:
    """Return the log-probability of each class in float64, which ranks classes exactly as the logits do."""
    return (compute_logits(model, images) / temperature).log_softmax(1)


def _mean_probability(log_probs: Tensor, dim: int) -> Tensor:
    return log_probs.exp().mean(dim).log()
