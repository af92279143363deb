"""One number over several seeds: mean, standard deviation, and how sure the seeds let one be. No torch here."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""97.5 % quantile of Student's t by degrees of freedom (any table); beyond nine, 2.26 is used, which is wider."""


@dataclass(frozen=True)
class SeedStats:
    """Mean and sample standard deviation of one number over seeds."""

    mean: float
    std: float | None
    """`None` for a single value, which has no spread."""
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"


def seed_stats(values: Sequence[float | None]) -> SeedStats | None:
    """Return mean and standard deviation of the values that are there, or `None` where there is none.

    With a value that is not finite the mean is infinite, and without deviation.
    """
    there = [value for value in values if value is not None]
    if not there:
        return None
    if not all(map(math.isfinite, there)):
        return SeedStats(math.inf, None, len(there))
    return SeedStats(statistics.fmean(there), statistics.stdev(there) if len(there) > 1 else None, len(there))


def interval_95(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean (Student's t), or `None` with fewer than two values."""
    if len(values) < 2:
        return None
    half = T_975.get(len(values) - 1, 2.262) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def two_figures(value: float) -> str:
    """Return a number to two figures, as people write it: `0.042`, `170`, `2.4e−8`, `not finite`."""
    if not math.isfinite(value):
        return "not finite"
    mantissa, _, exponent = f"{float(f'{value:.2g}'):g}".partition("e")
    return (f"{mantissa}e{int(exponent)}" if exponent else mantissa).replace("-", "−")


def format_range(values: Iterable[float | None]) -> str:
    """Return the lowest and the highest of some numbers as words: `1.9 to 2.4`; those that are missing are left out."""
    there = sorted(value for value in values if value is not None)
    if not there:
        return "unknown"
    low, high = two_figures(there[0]), two_figures(there[-1])
    return low if low == high else f"{low} to {high}"
