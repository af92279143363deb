"""Student's t for paired differences, and Holm's correction for many comparisons."""

import math
from collections.abc import Sequence


def holm(p: float, family: Sequence[float]) -> float:
    """Return the p of one comparison after Holm's correction for a family that contains it.

    In ascending order, the i-th of m values (from 0) is multiplied by m - i; a value is never below its predecessor's.

    Source: Holm (1979, A simple sequentially rejective multiple test procedure).
    """
    ordered = sorted(family)
    return min(1.0, max((len(ordered) - i) * value for i, value in enumerate(ordered) if value <= p))


def p_value(mean: float, std: float, num_seeds: int) -> float:
    """Return the two-sided p of the mean of paired differences, from their standard deviation over seeds."""
    from scipy.special import stdtr  # not at the top: only studies with several arms need it

    if mean == 0:
        return 1.0
    t = math.inf if std == 0 else abs(mean) * math.sqrt(num_seeds) / std
    return float(2 * stdtr(num_seeds - 1, -t))


def mean_interval(mean: float, std: float, num_seeds: int, *, level: float = 0.05) -> tuple[float, float]:
    """Return the interval of the mean of paired differences with coverage 1 - `level`."""
    from scipy.special import stdtrit

    half = float(stdtrit(num_seeds - 1, 1 - level / 2)) * std / math.sqrt(num_seeds)
    return mean - half, mean + half
