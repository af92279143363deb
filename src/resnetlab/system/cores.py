"""The processor cores that this process may use, and the numbers of threads worth trying on them."""

import math
import os
from pathlib import Path

QUOTAS = (
    ("/sys/fs/cgroup/cpu.max", None),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
"""Files with the processor time of a container and the period that it is given for; version 2 has both in one file."""


def usable_cores() -> int:
    """Return the number of cores on which this process may run, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota_cores() -> int | None:
    """Return how many cores' time a container's limit allows, rounded up; `None` without a limit.

    A process sees all cores of the machine then. Threads beyond the limit make every step wait for the next period.
    """
    for quota_file, period_file in QUOTAS:
        try:
            words = Path(quota_file).read_text().split()
            period = words[1] if period_file is None else Path(period_file).read_text()
            quota = float(words[0]) / float(period)  # "max" and -1 mean no limit
        except (OSError, ValueError, IndexError, ZeroDivisionError):
            continue
        if quota > 0:
            return max(1, math.ceil(quota))
    return None


def thread_counts(current: int) -> tuple[int, ...]:
    """Return the numbers of threads to compare, ascending: of a library's choice, the cores, the limit, and half.

    Args:
        current: The number that the library has chosen, for PyTorch one for each physical core.
    """
    most = usable_cores()
    limit = min(most, quota_cores() or most)
    return tuple(sorted({min(max(1, count), most) for count in (current, limit, min(current, limit) // 2)}))
