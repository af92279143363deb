"""The prediction for one image: the ranked classes, or `unknown` with the candidates."""

from dataclasses import dataclass

import numpy as np

from resnetlab.inference.rejection import UNKNOWN


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image."""

    label: str
    """The most probable class, the first in the network's order if several are equally probable; or `unknown`."""
    probability: float
    """The probability of the most probable class, 0 to 1: the softmax of the logits over the card's temperature."""
    top: tuple[tuple[str, float], ...]
    """Class names and probabilities, the most probable first."""
    is_unknown: bool = False
    """Whether the most probable class is less probable than `Predictor.reject_below`."""

    def __str__(self) -> str:
        classes = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in self.top)
        return f"{self.label}: {classes}" if self.is_unknown else classes

    def __repr__(self) -> str:
        top = ", ".join(f"({name!r}, {probability:.4f})" for name, probability in self.top)
        unknown = ", is_unknown=True" if self.is_unknown else ""
        comma = "," if len(self.top) == 1 else ""
        return f"Prediction({self.label!r}, {self.probability:.4f}, top=({top}{comma}){unknown})"


def rank_classes(
    probabilities: np.ndarray, classes: tuple[str, ...], *, top: int, reject_below: float | None = None
) -> Prediction:
    """Return the `top` most probable classes; ties are in the order of the classes.

    Args:
        probabilities: One probability for each class, 0 to 1: float (num_classes,).
        classes: Their names.
        top: Number of classes, at least 1.
        reject_below: Least probability of an accepted class; `None` accepts every one.
    """
    order = np.argsort(-probabilities, kind="stable")[:top]
    ranked = tuple((classes[index], float(probabilities[index])) for index in order)
    label, probability = ranked[0]
    if reject_below is not None and probability < reject_below:
        return Prediction(UNKNOWN, probability, ranked, is_unknown=True)
    return Prediction(label, probability, ranked)
