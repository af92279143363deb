"""Likely label errors: images of which the network is confident that they belong to another class than their label.

This is the confident joint of confident learning, with the images ranked by self-confidence. It needs predictions of
images that the network was not trained on.

Paper: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021, section 3.1.
Differs: only the most probable class of an image is compared with its threshold, because evaluations store no others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resnetlab.evaluation.predictions import Predictions

MAX_EXAMPLES = 24
"""Maximum number of images that an evaluation lists: one page of thumbnails."""


@dataclass(frozen=True, kw_only=True)
class LabelError:
    """An image whose label is probably wrong."""

    position: int
    """Index of the sample in the split."""
    label: str
    """The label in the data."""
    suggested: str
    """The most probable class."""
    self_confidence: float
    """Probability of `label`, 0 to 1; the lower, the more likely is an error."""
    probability: float
    """Probability of `suggested`, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class LabelErrors:
    """The likely label errors of a split."""

    count: int
    """All of them."""
    examples: tuple[LabelError, ...]
    """At most `MAX_EXAMPLES`, the lowest self-confidence first."""


def find_label_errors(predictions: Predictions, classes: Sequence[str]) -> LabelErrors:
    """Return the images whose most probable class is another than the label, and at least as probable as usual.

    Usual for a class is its mean probability over the images with this label. Images without a finite confidence are
    left out.

    Args:
        predictions: Of images that the network was not trained on.
        classes: The class names in the order of the model's class indices.
    """
    finite = np.isfinite(predictions.confidence) & np.isfinite(predictions.loss)
    labels, best = predictions.labels, predictions.top[:, 0]
    self_confidence = np.exp(-predictions.loss)
    sizes = np.bincount(labels[finite], minlength=len(classes))
    sums = np.bincount(labels[finite], self_confidence[finite], minlength=len(classes))
    usual = np.where(sizes > 0, sums / np.maximum(sizes, 1), np.inf)  # no image shows what is usual for an empty class
    rows = np.flatnonzero(finite & (best != labels) & (predictions.confidence >= usual[best]))
    order = np.lexsort((predictions.positions[rows], self_confidence[rows]))
    examples = tuple(
        LabelError(
            position=int(predictions.positions[row]),
            label=classes[int(labels[row])],
            suggested=classes[int(best[row])],
            self_confidence=float(self_confidence[row]),
            probability=float(predictions.confidence[row]),
        )
        for row in rows[order[:MAX_EXAMPLES]]
    )
    return LabelErrors(count=len(rows), examples=examples)
