"""Statistics of one metric over seeds: mean and standard deviation, and number formatting."""

import math
import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SeedStats:
    """The `mean` of one metric over seeds, its sample standard deviation, and the `count` of seeds."""

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


def paired_std(differences: Collection[float], smallest_steps: Iterable[float]) -> float | None:
    """Return the standard deviation of differences over seeds, or `None` for fewer than two.

    It is at least the largest of `smallest_steps`: errors come in steps of one image, so seeds that agree by chance do
    not show a smaller deviation.
    """
    return max(statistics.stdev(differences), *smallest_steps, 0.0) if len(differences) > 1 else None


def two_figures(value: float) -> str:
    """Return a number with two significant figures: `0.042`, `170`, `2.4e−8`, `not finite`."""
    if not math.isfinite(value):
        return "not finite"
    mantissa, _, exponent = f"{float(f'{value:.2g}'):g}".partition("e")
    return (f"{mantissa}e{int(exponent)}" if exponent else mantissa).replace("-", "−")


def format_interval(ends: tuple[float, float]) -> str:
    """Return an interval with one decimal, for display: `−0.1 to 0.4`."""
    return " to ".join(f"{end:.1f}".replace("-", "−") for end in ends)


def format_range(values: Iterable[float | None]) -> str:
    """Return the lowest and the highest known value as text: `1.9 to 2.4`, or `unknown` if all are `None`."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return "unknown"
    low, high = two_figures(known[0]), two_figures(known[-1])
    return low if low == high else f"{low} to {high}"
