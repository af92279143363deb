"""Coverage: the error of the images that a network answers if it rejects those of low confidence.

Paper: El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification", 2010.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from resnetlab.evaluation.error_rate import ErrorRate, error_rate

NUM_POINTS = 20
"""Points of the curve: every 5 % of the images."""


@dataclass(frozen=True, kw_only=True)
class CoveragePoint:
    """The answered images at one threshold of the confidence. The others are rejected."""

    threshold: float
    """Least confidence of an answered image, 0 to 1."""
    num_answered: int
    """Images with at least this confidence."""
    coverage_pct: float
    """Share of all images that are answered, in %."""
    error: ErrorRate | None
    """Top-1 error of the answered images; `None` if there are none."""

    def as_json(self) -> dict[str, Any]:
        """Return the point as JSON values."""
        return {
            "threshold": self.threshold,
            "num_answered": self.num_answered,
            "coverage_pct": self.coverage_pct,
            "num_wrong": self.error and self.error.num_wrong,
            "error_pct": self.error and self.error.pct,
            "interval_95_pct": self.error and list(self.error.interval_95_pct),
        }


def coverage_curve(confidence: np.ndarray, correct: np.ndarray, num_samples: int) -> tuple[CoveragePoint, ...]:
    """Return at most `NUM_POINTS` points in ascending order of coverage.

    Images of equal confidence are answered together, so a point may cover more than its share of 5 %.

    Args:
        confidence: Probability of the most probable class, finite: float (num_answerable,).
        correct: Whether this class is the label: bool (num_answerable,).
        num_samples: All images, with those that have no finite confidence.
    """
    if not len(confidence):
        return ()
    ranked = np.sort(confidence)[::-1]
    counts = np.ceil(len(ranked) * np.arange(1, NUM_POINTS + 1) / NUM_POINTS).astype(int)
    thresholds = dict.fromkeys(ranked[counts - 1].tolist())
    return tuple(coverage_at(threshold, confidence, correct, num_samples=num_samples) for threshold in thresholds)


def coverage_at(threshold: float, confidence: np.ndarray, correct: np.ndarray, *, num_samples: int) -> CoveragePoint:
    """Return coverage and error if images below a threshold are rejected; other arguments as for `coverage_curve`."""
    answered = confidence >= threshold
    num_answered, num_wrong = int(answered.sum()), int((answered & ~correct).sum())
    return CoveragePoint(
        threshold=threshold,
        num_answered=num_answered,
        coverage_pct=100 * num_answered / num_samples,
        error=error_rate(num_wrong, num_answered) if num_answered else None,
    )
