"""An error with its confidence interval."""

from dataclasses import dataclass

from scipy.stats import binomtest


@dataclass(frozen=True, kw_only=True)
class ErrorRate:
    """`pct`, the share of misclassified samples among `num_samples` in %, with its 95 % confidence interval."""

    num_wrong: int
    num_samples: int
    pct: float
    interval_95_pct: tuple[float, float]
    """Wilson score interval."""


def error_rate(num_wrong: int, num_samples: int) -> ErrorRate:
    """Return the error of at least one sample, with its 95 % Wilson score interval."""
    low, high = wilson_interval(num_wrong, num_samples)
    return ErrorRate(
        num_wrong=num_wrong,
        num_samples=num_samples,
        pct=100 * num_wrong / num_samples,
        interval_95_pct=(100 * low, 100 * high),
    )


def wilson_interval(count: int, num_samples: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion, from 0 to 1."""
    interval = binomtest(count, num_samples).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
