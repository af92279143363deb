"""Metrics of predictions: errors with confidence intervals, confusions, calibration, the most confident mistakes."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from resnetlab.config import ConfigError
from resnetlab.evaluation.chance import ChanceLevel, are_unequal, chance_entry, chance_level, macro_error_pct
from resnetlab.evaluation.coverage import CoveragePoint, coverage_at, coverage_curve
from resnetlab.evaluation.error_rate import ErrorRate, error_rate, wilson_interval
from resnetlab.evaluation.label_errors import LabelErrors, find_label_errors
from resnetlab.evaluation.predictions import Predictions

NUM_BINS = 15
"""Equal-width bins of the confidence (Guo et al. 2017, "On Calibration of Modern Neural Networks", Table 1)."""

MAX_MISTAKES = 24
"""Maximum number of mistakes that an evaluation lists: one page of thumbnails."""


@dataclass(frozen=True)
class ClassError:
    """The error of the class `name` on its `num_samples` samples."""

    name: str
    num_samples: int
    error: ErrorRate | None
    """Top-1 error; `None` if the class has no samples."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A `count` of samples of the class `true` that were predicted as another class."""

    true: str
    predicted: str
    count: int
    share_pct: float
    """Share of all samples of the true class, in %."""


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """A `count` of samples whose confidence is in (low, high]; all other values are from 0 to 1."""

    low: float
    high: float
    count: int
    confidence: float | None
    """Mean confidence; `None` in an empty bin, like the fields below."""
    accuracy: float | None
    """Share of correct predictions."""
    accuracy_interval_95: tuple[float, float] | None
    """Wilson score interval."""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A sample of the class `true` that was `predicted` as another class."""

    position: int
    """Index of the sample in the split."""
    true: str
    predicted: str
    confidence: float
    """Probability of `predicted`, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of one network or ensemble on one split.

    A sample without a finite confidence (the network returned NaN) counts as wrong in every error. Confusions,
    calibration and mistakes leave it out, because the network predicted no class.
    """

    classes: tuple[str, ...]
    """Class names, in the order of the logits."""
    num_samples: int
    """Samples evaluated."""
    num_without_confidence: int
    """Samples for which the network returned NaN."""
    top1: ErrorRate
    """Share of samples whose true class is not the most probable."""
    top_k: int
    """5, or the number of classes if there are fewer."""
    top5: ErrorRate
    """Share of samples whose true class is not among the `top_k` most probable."""
    loss: float | None
    """Mean cross entropy in nats; `None` if it is not finite."""
    mean_confidence_pct: float | None
    """Mean over the samples with a finite confidence; `None` if there are none."""
    ece_pct: float | None
    """Expected calibration error: the gap between confidence and accuracy, averaged over `reliability` by samples."""
    per_class: tuple[ClassError, ...]
    """The error of each class, in the order of `classes`."""
    confusion: np.ndarray
    """Samples by true class (row) and predicted class (column): int64, shape (num_classes, num_classes)."""
    confusions: tuple[Confusion, ...]
    """Every pair of confused classes, the most frequent first."""
    reliability: tuple[ReliabilityBin, ...]
    """Confidence and accuracy in bins of equal width, the least confident first."""
    mistakes: tuple[Mistake, ...]
    """At most `MAX_MISTAKES`, the most confident first."""
    coverage: tuple[CoveragePoint, ...]
    """Error of the most confident images, in ascending order of their share."""
    rejection: CoveragePoint | None = None
    """Coverage and error with the threshold `reject_below`; `None` if there is none."""
    label_errors: LabelErrors | None = None
    """Images whose labels are probably wrong; `None` if the network was trained on some of the images, or is no better
    than chance: it then says nothing about labels."""

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Samples of each class, in the order of `classes`."""
        return tuple(row.num_samples for row in self.per_class)

    @property
    def macro_error_pct(self) -> float | None:
        """Mean of the top-1 errors of the classes that have samples, in %: each class counts once."""
        return macro_error_pct([row.error.num_wrong if row.error else 0 for row in self.per_class], self.class_counts)

    @property
    def chance(self) -> ChanceLevel | None:
        """The top-1 error of always predicting the most frequent class; `None` if only one class has samples."""
        return chance_level(self.class_counts)

    @property
    def is_better_than_chance(self) -> bool:
        """Whether the interval of the top-1 error lies below the chance level; true where there is no level."""
        return self.chance is None or self.chance.is_beaten_by(self.top1.interval_95_pct)

    @property
    def has_unequal_classes(self) -> bool:
        """Whether the classes differ in size enough that `top1` depends on their frequencies (`UNEQUAL_RATIO`)."""
        return are_unequal(self.class_counts)

    def as_json(self) -> dict[str, Any]:
        """Return the metrics as JSON values, the most important first."""
        return {
            "top1_error_pct": self.top1.pct,
            "top1_interval_95_pct": list(self.top1.interval_95_pct),
            "macro_error_pct": self.macro_error_pct,
            "chance": chance_entry(self.class_counts, self.classes, self.top1.interval_95_pct),
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
                    "class": row.name,
                    "num_samples": row.num_samples,
                    "error_pct": row.error and row.error.pct,
                    "interval_95_pct": row.error and list(row.error.interval_95_pct),
                }
                for row in self.per_class
            ],
            "confusion": self.confusion.tolist(),
            "confusions": [asdict(confusion) for confusion in self.confusions],
            "reliability": [asdict(bin_) for bin_ in self.reliability],
            "mistakes": [asdict(mistake) for mistake in self.mistakes],
            "coverage": [point.as_json() for point in self.coverage],
            "rejection": self.rejection and self.rejection.as_json(),
            "label_errors": self.label_errors and asdict(self.label_errors),
        }


def compute_metrics(
    predictions: Predictions,
    classes: Sequence[str],
    *,
    reject_below: float | None = None,
    held_out: bool = True,
) -> Evaluation:
    """Compute all metrics of predictions.

    Args:
        predictions: One row for each image.
        classes: The class names in the order of the model's class indices.
        reject_below: Confidence below which an image is rejected; only `rejection` depends on it.
        held_out: Whether the network was trained on none of the images; otherwise label errors are not searched.

    Raises:
        ConfigError: if there are no samples.
    """
    if not len(predictions):
        raise ConfigError("no image was evaluated; a split without images has no error")
    finite = np.isfinite(predictions.confidence)
    in_top_k = (predictions.top == predictions.labels[:, None]) & finite[:, None]
    correct = in_top_k[:, 0]
    class_sizes = np.bincount(predictions.labels, minlength=len(classes))
    class_errors = np.bincount(predictions.labels[~correct], minlength=len(classes))
    confusion = confusion_matrix(predictions.labels[finite], predictions.top[finite, 0], len(classes))
    answerable = predictions.confidence[finite], correct[finite]
    reliability = reliability_curve(*answerable)
    loss, level = float(predictions.loss.mean()), chance_level(class_sizes.tolist())
    top1 = error_rate(int((~correct).sum()), len(predictions))
    beats_chance = level is None or level.is_beaten_by(top1.interval_95_pct)
    return Evaluation(
        classes=tuple(classes),
        num_samples=len(predictions),
        num_without_confidence=int((~finite).sum()),
        top1=top1,
        top_k=predictions.top.shape[1],
        top5=error_rate(int((~in_top_k.any(1)).sum()), len(predictions)),
        loss=loss if math.isfinite(loss) else None,
        mean_confidence_pct=100 * float(predictions.confidence[finite].mean()) if finite.any() else None,
        ece_pct=calibration_error_pct(reliability),
        per_class=tuple(
            ClassError(name, int(size), error_rate(int(num_wrong), int(size)) if size else None)
            for name, size, num_wrong in zip(classes, class_sizes, class_errors, strict=True)
        ),
        confusion=confusion,
        confusions=tuple(
            Confusion(
                true=classes[true],
                predicted=classes[predicted],
                count=count,
                share_pct=float(100 * count / class_sizes[true]),
            )
            for (true, predicted), count in confused_pairs(confusion).items()
        ),
        reliability=reliability,
        mistakes=most_confident_mistakes(predictions, classes, finite & ~correct),
        coverage=coverage_curve(*answerable, len(predictions)),
        rejection=None
        if reject_below is None
        else coverage_at(reject_below, *answerable, num_samples=len(predictions)),
        label_errors=find_label_errors(predictions, classes) if held_out and beats_chance else None,
    )


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pairs of true class (row) and predicted class (column): int64, shape (num_classes, num_classes)."""
    pairs = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64)


def confused_pairs(confusion: np.ndarray) -> dict[tuple[int, int], int]:
    """Return the count of each confusion (true, predicted), the most frequent first; ties are in class order."""
    rows, columns = np.nonzero(confusion)
    off_diagonal = rows != columns
    rows, columns = rows[off_diagonal], columns[off_diagonal]
    counts = confusion[rows, columns]
    order = np.argsort(-counts, kind="stable")
    pairs = zip(rows[order].tolist(), columns[order].tolist(), strict=True)
    return dict(zip(pairs, counts[order].tolist(), strict=True))


def reliability_curve(confidence: np.ndarray, correct: np.ndarray) -> tuple[ReliabilityBin, ...]:
    """Return `NUM_BINS` bins of equal width in ascending order; the first bin includes a confidence of 0."""
    edges = np.linspace(0, 1, NUM_BINS + 1)
    bin_index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, NUM_BINS - 1)
    bins = []
    for index, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        in_bin = bin_index == index
        count, num_correct = int(in_bin.sum()), int(correct[in_bin].sum())
        bins.append(
            ReliabilityBin(
                low=low,
                high=high,
                count=count,
                confidence=float(confidence[in_bin].mean()) if count else None,
                accuracy=num_correct / count if count else None,
                accuracy_interval_95=wilson_interval(num_correct, count) if count else None,
            )
        )
    return tuple(bins)


def calibration_error_pct(reliability: Sequence[ReliabilityBin]) -> float | None:
    """Return the expected calibration error in %, or `None` if every bin is empty (Guo et al. 2017, equation 3)."""
    gaps = [
        bin_.count * abs(bin_.accuracy - bin_.confidence)
        for bin_ in reliability
        if bin_.accuracy is not None and bin_.confidence is not None
    ]
    return 100 * sum(gaps) / sum(bin_.count for bin_ in reliability) if gaps else None


def most_confident_mistakes(predictions: Predictions, classes: Sequence[str], wrong: np.ndarray) -> tuple[Mistake, ...]:
    """Return the `MAX_MISTAKES` most confident samples of the mask `wrong`; ties are in the order of positions."""
    rows = np.flatnonzero(wrong)
    order = np.lexsort((predictions.positions[rows], -predictions.confidence[rows]))
    return tuple(
        Mistake(
            position=int(predictions.positions[row]),
            true=classes[int(predictions.labels[row])],
            predicted=classes[int(predictions.top[row, 0])],
            confidence=float(predictions.confidence[row]),
        )
        for row in rows[order[:MAX_MISTAKES]]
    )
