"""Statistics of one metric over seeds: mean, standard deviation and 95 % interval, and number formatting."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""97.5 % quantile of Student's t by degrees of freedom (any table).

Beyond nine degrees the last value is used, which gives a slightly wider interval."""

T_995 = {1: 63.657, 2: 9.925, 3: 5.841, 4: 4.604, 5: 4.032, 6: 3.707, 7: 3.499, 8: 3.355, 9: 3.250}
"""99.5 % quantile, as `T_975`."""


@dataclass(frozen=True)
class SeedStats:
    """Mean and sample standard deviation of one metric over seeds."""

    mean: float
    std: float | None
    """`None` for a single value."""
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"


def seed_stats(values: Sequence[float | None]) -> SeedStats | None:
    """Return mean and standard deviation of the known values, or `None` if all are `None`.

    If a value is not finite, the mean is infinite and the standard deviation `None`.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    if not all(map(math.isfinite, known)):
        return SeedStats(math.inf, None, len(known))
    return SeedStats(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def interval_95(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean (Student's t), or `None` for fewer than two values."""
    return _interval(values, T_975)


def interval_99(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 99 % interval of the mean (Student's t), or `None` for fewer than two values."""
    return _interval(values, T_995)


def _interval(values: Sequence[float], quantiles: Mapping[int, float]) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    quantile = quantiles[min(len(values) - 1, max(quantiles))]
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def two_figures(value: float) -> str:
    """Return a number with two significant figures: `0.042`, `170`, `2.4e−8`, `not finite`."""
    if not math.isfinite(value):
        return "not finite"
    mantissa, _, exponent = f"{float(f'{value:.2g}'):g}".partition("e")
    return (f"{mantissa}e{int(exponent)}" if exponent else mantissa).replace("-", "−")


def format_range(values: Iterable[float | None]) -> str:
    """Return the lowest and the highest known value as text: `1.9 to 2.4`, or `unknown` if all are `None`."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return "unknown"
    low, high = two_figures(known[0]), two_figures(known[-1])
    return low if low == high else f"{low} to {high}"
