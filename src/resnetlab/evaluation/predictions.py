"""Predictions of a network on a split, one row for each sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resnetlab.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions and labels, one row for each evaluated sample; every metric follows from them."""

    positions: np.ndarray
    """Index of the sample in the split: int64, shape (num_samples,), ascending. Undecodable samples have no row."""
    labels: np.ndarray
    """True class, numbered as in the model: int64, shape (num_samples,)."""
    top: np.ndarray
    """Most probable classes in descending order: int64, shape (num_samples, min(5, num_classes))."""
    confidence: np.ndarray
    """Probability of the most probable class, 0 to 1: float64, shape (num_samples,)."""
    loss: np.ndarray
    """Cross entropy in nats: float64, shape (num_samples,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, num_samples: int) -> "Predictions":
        """Return the first rows."""
        return Predictions(**{name: getattr(self, name)[:num_samples] for name in Predictions.__dataclass_fields__})


NO_PREDICTIONS = Predictions(
    positions=np.zeros(0, np.int64),
    labels=np.zeros(0, np.int64),
    top=np.zeros((0, 0), np.int64),
    confidence=np.zeros(0),
    loss=np.zeros(0),
)
"""Predictions of a part of a split without samples."""


def merge_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Merge the predictions of several parts of a split, sorted by position; some parts may be empty.

    Raises:
        ConfigError: if all parts are empty.
        ValueError: if two parts contain the same sample.
    """
    parts = [part for part in parts if len(part)]
    if not parts:
        raise ConfigError("no image of the split can be decoded; list the errors with: resnetlab data check PATH")
    merged = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in Predictions.__dataclass_fields__
    }
    order = np.argsort(merged["positions"], kind="stable")
    positions = merged["positions"][order]
    duplicates = positions[1:][positions[1:] == positions[:-1]]
    if len(duplicates):
        raise ValueError(f"sample {duplicates[0]} was evaluated twice")
    return Predictions(**{name: values[order] for name, values in merged.items()})
