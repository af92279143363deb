"""The rule that decides an assumption, or says that the statistics cannot tell."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

CLEAR_RATIO = 3.0
"""The score of every other value must be this many times the best one. Where a wrong value was best, the next one was
within a factor of 1.8, also for images of another kind (docs/log.md)."""
CLOSE_PREPROCESSING = 0.0015
"""Largest score at which the first batch normalisation agrees with a preprocessing. Images of the training's kind are
mostly within 0.001; single classes, darker or grey images go beyond. (Images of a little more contrast do not, and no
check can tell them from a smaller deviation.)"""
CLOSE_WIRING = 0.05
"""Largest score at which the other layers agree with a wiring. It is wider: the images hardly matter, since even noise
shows a plain network that is read as residual."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Finding:
    """The verdict of the statistics on one property of a network."""

    subject: str
    """The property in words, such as `mean and deviation`."""
    scores: Mapping[str, float]
    """Mean squared Hellinger distance for each value, 0 (agreement) to 1; the best comes first."""
    decided: str | None
    """The value that is clearly better than all others; `None` if the statistics cannot tell."""


def decide(scores: Mapping[Value, float], limit: float) -> Value | None:
    """Return the value whose score is at most `limit` and `CLEAR_RATIO` times smaller than every other, or `None`."""
    if len(scores) < 2:
        return None
    (value, best), (_, second) = sorted(scores.items(), key=lambda item: item[1])[:2]
    return value if best <= limit and second >= CLEAR_RATIO * best and second > 0 else None


def best_by(items: "list[tuple[Value, float]]") -> dict[Value, float]:
    """Return the lowest score of each value, the best value first."""
    scores: dict[Value, float] = {}
    for value, score in sorted(items, key=lambda item: item[1]):
        scores.setdefault(value, score)
    return scores
