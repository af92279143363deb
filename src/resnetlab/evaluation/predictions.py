"""What was said of each sample: every sample of a split exactly once. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resnetlab.config import ConfigError


@dataclass(frozen=True)
class Predictions:
    """A row for each sample that was judged; from it every number of an evaluation follows."""

    positions: np.ndarray
    """Which sample of the split: int64, shape (num_samples,), rising. Samples that cannot be decoded are missing."""
    labels: np.ndarray
    """Its true class, as the model numbers classes: int64, shape (num_samples,)."""
    top: np.ndarray
    """The most probable classes, the first first: int64, shape (num_samples, min(5, number of classes))."""
    confidence: np.ndarray
    """Probability of the first of these, 0 to 1: float64, shape (num_samples,)."""
    loss: np.ndarray
    """Minus the logarithm of the true class's probability, in nats: float64, shape (num_samples,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, num_samples: int) -> "Predictions":
        """Return the first rows alone."""
        return Predictions(**{name: getattr(self, name)[:num_samples] for name in Predictions.__dataclass_fields__})


NOTHING = Predictions(
    np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 0), np.int64), np.zeros(0), np.zeros(0)
)
"""Of a part without samples."""


def merge_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Put the judgements of several parts of a split together, in the order of the samples; some parts may be empty.

    Raises:
        ConfigError: where all of them are: there is not one image to judge on.
        ValueError: where a sample is in two of them.
    """
    parts = [part for part in parts if len(part)]
    if not parts:
        raise ConfigError("not one image of a split can be decoded; list them with: resnetlab data check PATH")
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in Predictions.__dataclass_fields__
    }
    order = np.argsort(joined["positions"], kind="stable")
    positions = joined["positions"][order]
    twice = positions[1:][positions[1:] == positions[:-1]]
    if len(twice):
        raise ValueError(f"sample {twice[0]} was judged twice")
    return Predictions(**{name: values[order] for name, values in joined.items()})
