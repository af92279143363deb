"""The prediction for one image: the ranked classes, `unknown` with the candidates, or several labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resnetlab.inference.rejection import UNKNOWN

NO_LABEL = "no label"
"""Printed for an image whose labels are all less probable than their thresholds."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image."""

    label: str
    """The most probable class, the first in the network's order if several are equally probable; or `unknown`."""
    probability: float
    """The probability of the most probable class, 0 to 1: the softmax of the logits over the card's temperature, or the
    sigmoid where an image may have several labels."""
    top: tuple[tuple[str, float], ...]
    """Class names and probabilities, the most probable first."""
    is_unknown: bool = False
    """Whether the most probable class is less probable than `Predictor.reject_below`."""
    labels: tuple[str, ...] | None = None
    """The labels of the image, the most probable first: those that are at least as probable as their thresholds. `None`
    where an image has one class."""

    def __str__(self) -> str:
        classes = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in self.top)
        if self.labels is not None:
            return f"{', '.join(self.labels) or NO_LABEL}: {classes}"
        return f"{self.label}: {classes}" if self.is_unknown else classes

    def __repr__(self) -> str:
        top = ", ".join(f"({name!r}, {probability:.4f})" for name, probability in self.top)
        unknown = ", is_unknown=True" if self.is_unknown else ""
        comma = "," if len(self.top) == 1 else ""
        labels = "" if self.labels is None else f", labels={self.labels!r}"
        return f"Prediction({self.label!r}, {self.probability:.4f}, top=({top}{comma}){unknown}{labels})"


def rank_classes(
    probabilities: np.ndarray,
    classes: tuple[str, ...],
    *,
    top: int,
    reject_below: float | None = None,
    thresholds: Sequence[float] | None = None,
) -> Prediction:
    """Return the `top` most probable classes; ties are in the order of the classes.

    Args:
        probabilities: One probability for each class, 0 to 1: float (num_classes,).
        classes: Their names.
        top: Number of classes, at least 1.
        reject_below: Least probability of an accepted class; `None` accepts every one.
        thresholds: Least probability of each label where an image may have several; else `None`.
    """
    order = np.argsort(-probabilities, kind="stable")[:top]
    ranked = tuple((classes[index], float(probabilities[index])) for index in order)
    label, probability = ranked[0]
    if reject_below is not None and probability < reject_below:
        return Prediction(UNKNOWN, probability, ranked, is_unknown=True)
    labels = None
    if thresholds is not None:
        every = np.argsort(-probabilities, kind="stable")
        labels = tuple(classes[index] for index in every if probabilities[index] >= thresholds[index])
    return Prediction(label, probability, ranked, labels=labels)
