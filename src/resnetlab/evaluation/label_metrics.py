"""Metrics of images with several labels: average precision, and precision, recall and F1 at a threshold for each label.

The thresholds are fitted on validation images, where F1 is the highest, and stored in the model card.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from resnetlab.config import ConfigError
from resnetlab.evaluation.error_rate import ErrorRate, error_rate
from resnetlab.evaluation.multi_label import LabelPredictions, average_precisions, constant_error_pct
from resnetlab.models.model_card import MultiLabel


@dataclass(frozen=True, kw_only=True)
class LabelMetrics:
    """Metrics of one label; each is `None` where it would divide by 0."""

    name: str
    """Name of the label."""
    num_images: int
    """Images with the label."""
    threshold: float
    """Probability from which an image gets the label."""
    average_precision_pct: float | None
    """Area below precision over recall; no threshold affects it."""
    precision_pct: float | None
    """Share of the images that got the label and have it."""
    recall_pct: float | None
    """Share of the images with the label that got it."""
    f1_pct: float | None
    """Harmonic mean of precision and recall."""


@dataclass(frozen=True, kw_only=True)
class MultiLabelEvaluation:
    """Metrics of one network on one split whose images have several labels."""

    classes: tuple[str, ...]
    """Names of the labels, in the order of the logits."""
    num_samples: int
    """Images evaluated."""
    mean_average_precision_pct: float | None
    """Mean over the labels that some image has; no threshold affects it."""
    macro_f1_pct: float | None
    """Mean F1 over the labels that some image has, each counting once."""
    micro_f1_pct: float | None
    """F1 over all decisions on images and labels."""
    exact_match_error: ErrorRate
    """Share of the images with any wrong label."""
    chance_error_pct: float
    """The same for giving every image the most frequent set of labels."""
    loss: float
    """Mean binary cross-entropy in nats, over images and labels."""
    per_label: tuple[LabelMetrics, ...]
    """The metrics of each label, in the order of `classes`."""

    def as_json(self) -> dict[str, Any]:
        """Return the metrics as JSON values, the most important first."""
        return {
            "mean_average_precision_pct": self.mean_average_precision_pct,
            "macro_f1_pct": self.macro_f1_pct,
            "micro_f1_pct": self.micro_f1_pct,
            "exact_match_error_pct": self.exact_match_error.pct,
            "exact_match_interval_95_pct": list(self.exact_match_error.interval_95_pct),
            "chance_error_pct": self.chance_error_pct,
            "num_samples": self.num_samples,
            "loss": self.loss,
            "per_label": [asdict(label) for label in self.per_label],
        }


def fit_thresholds(predictions: LabelPredictions, *, split: str) -> MultiLabel:
    """Return the threshold of each label with the highest F1, and the images on which they were fitted.

    A threshold lies halfway between the least probable image that gets the label and the next one. A label that no
    image or every image has gets one half.

    Args:
        predictions: Images that the network was not trained on.
        split: Their split, such as `val`.
    """
    thresholds = [
        best_threshold(truth, scores)
        for truth, scores in zip(predictions.labels.T, predictions.probabilities.T, strict=True)
    ]
    return MultiLabel(thresholds=tuple(thresholds), split=split, num_images=len(predictions))


def best_threshold(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the probability from which giving a label has the highest F1; of equals, the highest threshold.

    Args:
        truth: Whether each image has the label: bool (num_samples,).
        probabilities: Its probability, 0 to 1: float64 (num_samples,).
    """
    if not truth.any() or truth.all() or not np.isfinite(probabilities).all():
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    ranked, num_true = probabilities[order], np.cumsum(truth[order])
    ends = np.flatnonzero(np.append(ranked[:-1] != ranked[1:], True))  # equal probabilities are accepted together
    f1 = 2 * num_true[ends] / (ends + 1 + truth.sum())
    last = ends[int(f1.argmax())]
    below = ranked[last + 1] if last + 1 < len(ranked) else 0.0
    return float((ranked[last] + below) / 2)


def compute_label_metrics(
    predictions: LabelPredictions, classes: Sequence[str], thresholds: Sequence[float]
) -> MultiLabelEvaluation:
    """Compute all metrics of images with several labels.

    Args:
        predictions: One row for each image.
        classes: Names of the labels, in the order of the logits.
        thresholds: Probability from which an image gets each label.

    Raises:
        ConfigError: if there are no images.
    """
    if not len(predictions):
        raise ConfigError("no image was evaluated; a split without images has no metrics")
    given, truth = predictions.probabilities >= np.asarray(thresholds), predictions.labels
    true_given, num_given, num_true = (given & truth).sum(0), given.sum(0), truth.sum(0)
    per_label = tuple(
        LabelMetrics(
            name=name,
            num_images=int(num_true[label]),
            threshold=thresholds[label],
            average_precision_pct=precision if precision is None else 100 * precision,
            precision_pct=_pct(true_given[label], num_given[label]),
            recall_pct=_pct(true_given[label], num_true[label]),
            f1_pct=_pct(2 * true_given[label], num_given[label] + num_true[label]),
        )
        for label, (name, precision) in enumerate(zip(classes, average_precisions(predictions), strict=True))
    )
    present = [row for row in per_label if row.num_images]
    return MultiLabelEvaluation(
        classes=tuple(classes),
        num_samples=len(predictions),
        mean_average_precision_pct=_mean([row.average_precision_pct for row in present]),
        macro_f1_pct=_mean([row.f1_pct for row in present]),
        micro_f1_pct=_pct(2 * true_given.sum(), num_given.sum() + num_true.sum()),
        exact_match_error=error_rate(int((given != truth).any(1).sum()), len(predictions)),
        chance_error_pct=constant_error_pct(truth)[0],
        loss=predictions.loss,
        per_label=per_label,
    )


def _pct(part: int, whole: int) -> float | None:
    return 100 * float(part) / float(whole) if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
