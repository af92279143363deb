"""A judgement → errors with intervals, confusions, calibration, the most confident mistakes. No torch here."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from resnetlab.config import ConfigError
from resnetlab.evaluation.predictions import Predictions

BINS = 15
"""Equal-width bins of the confidence (Guo et al. 2017, "On Calibration of Modern Neural Networks", Table 1)."""

MISTAKES = 24
"""So many of the most confident mistakes are kept; a page that one looks through."""


@dataclass(frozen=True)
class ErrorRate:
    """The share of some samples that is wrong, and how sure their number lets one be of it."""

    num_wrong: int
    num_samples: int
    pct: float
    interval_95_pct: tuple[float, float]
    """Wilson's score interval."""


@dataclass(frozen=True)
class ClassError:
    """One class by itself."""

    name: str
    num_samples: int
    error: ErrorRate | None
    """Top-1; `None` without samples."""


@dataclass(frozen=True)
class Confusion:
    """One class that was taken for another."""

    true: str
    predicted: str
    count: int
    share_pct: float
    """Of all samples of the true class."""


@dataclass(frozen=True)
class Bin:
    """The samples whose confidence lies above `low` and at most at `high`; all values are from 0 to 1."""

    low: float
    high: float
    count: int
    confidence: float | None
    """Their mean; `None` in an empty bin, as the others."""
    accuracy: float | None
    """The share that is right."""
    accuracy_interval_95: tuple[float, float] | None
    """Wilson's score interval."""


@dataclass(frozen=True)
class Mistake:
    """A sample whose most probable class is not its own."""

    position: int
    """Which sample of the split."""
    true: str
    predicted: str
    confidence: float
    """Probability of `predicted`, 0 to 1."""


@dataclass(frozen=True)
class Evaluation:
    """Every number that follows from a judgement.

    A sample without a confidence (the network gave NaN) counts as wrong in every error. It has no place in the
    confusions, the calibration and the mistakes: no class was predicted.
    """

    classes: tuple[str, ...]
    num_samples: int
    num_without_confidence: int
    top1: ErrorRate
    top_k: int
    """5, or the number of classes where there are fewer."""
    top5: ErrorRate
    """The true class is not among the `top_k` most probable."""
    loss: float | None
    """Mean cross entropy, in nats; `None` where it is not finite."""
    mean_confidence_pct: float | None
    """Of the samples that have one; `None` where none has."""
    ece_pct: float | None
    """Expected calibration error: the mean gap between confidence and accuracy over `reliability`, by samples."""
    per_class: tuple[ClassError, ...]
    confusion: np.ndarray
    """How many of each class (row) were taken for each class (column): int64, shape (num_classes, num_classes)."""
    confusions: tuple[Confusion, ...]
    """Every pair of classes that was confused, the most frequent first."""
    reliability: tuple[Bin, ...]
    mistakes: tuple[Mistake, ...]
    """The most confident first."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values, in the order in which people look for them."""
        return {
            "top1_error_pct": self.top1.pct,
            "top1_interval_95_pct": list(self.top1.interval_95_pct),
            "top5_error_pct": self.top5.pct,
            "top5_interval_95_pct": list(self.top5.interval_95_pct),
            "top_k": self.top_k,
            "num_samples": self.num_samples,
            "num_without_confidence": self.num_without_confidence,
            "loss": self.loss,
            "mean_confidence_pct": self.mean_confidence_pct,
            "ece_pct": self.ece_pct,
            "per_class": [
                {
                    "class": one.name,
                    "num_samples": one.num_samples,
                    "error_pct": one.error and one.error.pct,
                    "interval_95_pct": one.error and list(one.error.interval_95_pct),
                }
                for one in self.per_class
            ],
            "confusion": self.confusion.tolist(),
            "confusions": [asdict(one) for one in self.confusions],
            "reliability": [asdict(one) for one in self.reliability],
            "mistakes": [asdict(one) for one in self.mistakes],
        }


def compute_metrics(judgement: Predictions, classes: Sequence[str]) -> Evaluation:
    """Work out every number of a judgement; `classes` are the names, in the order in which the model numbers them.

    Raises:
        ConfigError: where there is not one sample.
    """
    if not len(judgement):
        raise ConfigError("not one image was judged; a split without images has no error")
    answered = np.isfinite(judgement.confidence)
    hit = (judgement.top == judgement.labels[:, None]) & answered[:, None]
    right = hit[:, 0]
    counts, wrong = (np.bincount(judgement.labels[of], minlength=len(classes)) for of in (slice(None), ~right))
    confusion = confusion_matrix(judgement.labels[answered], judgement.top[answered, 0], len(classes))
    reliability = reliability_curve(judgement.confidence[answered], right[answered])
    loss = float(judgement.loss.mean())
    return Evaluation(
        classes=tuple(classes),
        num_samples=len(judgement),
        num_without_confidence=int((~answered).sum()),
        top1=error_rate(int((~right).sum()), len(judgement)),
        top_k=judgement.top.shape[1],
        top5=error_rate(int((~hit.any(1)).sum()), len(judgement)),
        loss=loss if math.isfinite(loss) else None,
        mean_confidence_pct=100 * float(judgement.confidence[answered].mean()) if answered.any() else None,
        ece_pct=calibration_error_pct(reliability),
        per_class=tuple(
            ClassError(name, int(of), error_rate(int(bad), int(of)) if of else None)
            for name, of, bad in zip(classes, counts, wrong, strict=True)
        ),
        confusion=confusion,
        confusions=tuple(
            Confusion(classes[true], classes[predicted], count, float(100 * count / counts[true]))
            for (true, predicted), count in confused_pairs(confusion).items()
        ),
        reliability=reliability,
        mistakes=confident_mistakes(judgement, classes, answered & ~right),
    )


def error_rate(num_wrong: int, num_samples: int) -> ErrorRate:
    """Return a share of at least one sample, with Wilson's 95 % interval."""
    low, high = _interval_95(num_wrong, num_samples)
    return ErrorRate(num_wrong, num_samples, 100 * num_wrong / num_samples, (100 * low, 100 * high))


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pairs of true class (row) and predicted class (column): int64, shape (num_classes, num_classes)."""
    pairs = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64)


def confused_pairs(confusion: np.ndarray) -> dict[tuple[int, int], int]:
    """Return how often each confusion (true, predicted) occurs, the most frequent first; ties by class number."""
    rows, columns = np.nonzero(confusion)
    off = rows != columns
    rows, columns = rows[off], columns[off]
    counts = confusion[rows, columns]
    order = np.argsort(-counts, kind="stable")
    pairs = zip(rows[order].tolist(), columns[order].tolist(), strict=True)
    return dict(zip(pairs, counts[order].tolist(), strict=True))


def reliability_curve(confidence: np.ndarray, right: np.ndarray) -> tuple[Bin, ...]:
    """Return `BINS` bins of equal width, the least confident first; a confidence of 0 is in the first."""
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    bins = []
    for at, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        inside = place == at
        count = int(inside.sum())
        if count:
            num_right = int(right[inside].sum())
            mean, accuracy = float(confidence[inside].mean()), num_right / count
            bins.append(Bin(low, high, count, mean, accuracy, _interval_95(num_right, count)))
        else:
            bins.append(Bin(low, high, 0, None, None, None))
    return tuple(bins)


def calibration_error_pct(reliability: Sequence[Bin]) -> float | None:
    """Return the expected calibration error in %, or `None` where every bin is empty (Guo et al. 2017, equation 3)."""
    gaps = [
        one.count * abs(one.accuracy - one.confidence)
        for one in reliability
        if one.accuracy is not None and one.confidence is not None
    ]
    return 100 * sum(gaps) / sum(one.count for one in reliability) if gaps else None


def confident_mistakes(judgement: Predictions, classes: Sequence[str], wrong: np.ndarray) -> tuple[Mistake, ...]:
    """Return the `MISTAKES` most confident samples among those marked `wrong`; ties by position."""
    rows = np.flatnonzero(wrong)
    order = np.lexsort((judgement.positions[rows], -judgement.confidence[rows]))
    return tuple(
        Mistake(
            int(judgement.positions[row]),
            classes[int(judgement.labels[row])],
            classes[int(judgement.top[row, 0])],
            float(judgement.confidence[row]),
        )
        for row in rows[order[:MISTAKES]]
    )


def _interval_95(count: int, num_samples: int) -> tuple[float, float]:
    """Return Wilson's interval of a share, from 0 to 1."""
    interval = binomtest(count, num_samples).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
