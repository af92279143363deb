"""The chance level: the error of a classifier that gives every image the same answer, and unequal classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

UNEQUAL_RATIO = 1.5
"""Images of the largest class over those of the smallest from which classes count as unequal. Stratified splits of
equal classes stay below: they differ by one image, of three or more."""


NO_BETTER_THAN_CHANCE = "The top-1 error is no better than chance: its interval reaches the error of a constant answer."


@dataclass(frozen=True)
class ChanceLevel:
    """The lowest error that a constant answer has on some samples: always the most frequent of their classes."""

    error_pct: float
    """Share of the samples of all other classes, in %."""
    label: int
    """The most frequent class; the first of several."""
    any_class: bool
    """Whether every class is equally frequent, so that each constant answer has this error."""

    def describe(self, classes: Sequence[str]) -> str:
        """Return the answer that has this error, in words; `classes` are the names by label."""
        return constant_answer(None if self.any_class else classes[self.label])

    def is_beaten_by(self, interval_95_pct: Sequence[float]) -> bool:
        """Return whether an error, given by its 95 % interval in %, is below the level: the interval lies below it."""
        return interval_95_pct[1] < self.error_pct


def constant_answer(name: str | None) -> str:
    """Return the best constant answer in words: the class `name`, or any class if `None`."""
    return f"always predicting {'any one class' if name is None else f'{name!r}, the most frequent class'}"


def chance_level(class_counts: Sequence[int]) -> ChanceLevel | None:
    """Return the chance level for the number of samples of each class; `None` if fewer than two classes have any."""
    counts = np.asarray(class_counts, dtype=np.int64)
    present = counts[counts > 0]
    if len(present) < 2:
        return None
    return ChanceLevel(
        error_pct=float(100 * (counts.sum() - counts.max()) / counts.sum()),
        label=int(counts.argmax()),
        any_class=bool(present.min() == present.max()),
    )


def macro_error_pct(class_wrong: Sequence[int], class_counts: Sequence[int]) -> float | None:
    """Return the mean error of the classes that have samples, in %, each class counting once; `None` without any."""
    wrong, counts = np.asarray(class_wrong, dtype=np.int64), np.asarray(class_counts, dtype=np.int64)
    has_samples = counts > 0
    return float(100 * (wrong[has_samples] / counts[has_samples]).mean()) if has_samples.any() else None


def imbalance(class_counts: Sequence[int]) -> float:
    """Return the number of samples of the largest class over that of the smallest that has any; 1 without samples."""
    present = [count for count in class_counts if count > 0]
    return max(present) / min(present) if present else 1.0


def are_unequal(class_counts: Sequence[int]) -> bool:
    """Return whether the classes differ in size enough that an error depends on their frequencies."""
    return imbalance(class_counts) >= UNEQUAL_RATIO


def chance_entry(class_counts: Sequence[int], classes: Sequence[str], interval_95_pct: Sequence[float]) -> Any:
    """Return the chance level as JSON values, with whether an error is below it; `None` if there is no level."""
    level = chance_level(class_counts)
    if level is None:
        return None
    return {
        "error_pct": level.error_pct,
        "class": None if level.any_class else classes[level.label],
        "better_than_chance": level.is_beaten_by(interval_95_pct),
    }
