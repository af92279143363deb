"""Comparisons of two networks that differ in depth or number of training images, paired by seed.

Verdicts accept only such comparisons as evidence. A comparison is clear only if every seed and the 95 % interval agree,
so the verdict depends on which run has which label: it disappears when the labels are shuffled.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from resnetlab.study.arms import ordered_arms
from resnetlab.study.results import Run
from resnetlab.study.run_metrics import train_error, unseen_error
from resnetlab.study.seed_stats import interval_95

RunsBySeed = Mapping[int, Run]
"""Seed to run: the networks of one arm, depth and number of training images."""


@dataclass(frozen=True)
class PairedComparison:
    """Differences of one metric between two networks, seed by seed."""

    points: dict[int, float]
    """Seed to difference, in the unit of the metric (percentage points for errors)."""

    @property
    def mean(self) -> float:
        """Mean difference over seeds."""
        return statistics.fmean(self.points.values())

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean (paired t over seeds), or `None` with one seed."""
        return interval_95(list(self.points.values()))

    @property
    def is_clear(self) -> bool:
        """Whether the difference is above zero in every seed, and the interval is above zero."""
        return self.interval is not None and self.interval[0] > 0 and all(d > 0 for d in self.points.values())

    @property
    def sign_text(self) -> str:
        """The sign of the difference in each seed, in the order of the seeds: `+ + −`."""
        return " ".join("+" if d > 0 else "−" if d < 0 else "0" for _, d in sorted(self.points.items()))

    @property
    def interval_text(self) -> str:
        """The interval for display, `−0.1 to 0.4`, or `one seed`."""
        if self.interval is None:
            return "one seed"
        return " to ".join(f"{end:.1f}".replace("-", "−") for end in self.interval)


def compare_pairs(
    first: RunsBySeed, second: RunsBySeed, metric: Callable[[Run], float | None]
) -> PairedComparison | None:
    """Return metric of `second` minus metric of `first` for every seed that has both; `None` if no seed has."""
    points: dict[int, float] = {}
    for seed in sorted(first.keys() & second.keys()):
        before, after = metric(first[seed]), metric(second[seed])
        if before is not None and after is not None:
            points[seed] = after - before
    return PairedComparison(points) if points else None


class DepthExtremes(NamedTuple):
    """The shallowest and the deepest networks of a group."""

    shallow: RunsBySeed
    deep: RunsBySeed


@dataclass(frozen=True)
class DepthEffect:
    """Errors of an arm's deepest networks minus those of its shallowest, paired by seed."""

    data: str
    arm: str
    shallow: int
    deep: int
    train_images: int | None
    train: PairedComparison
    """Difference of the final training error; above 0 the deeper network fits worse."""
    unseen: PairedComparison | None
    """Difference of the final test error, or of the validation error if there is no test split."""


@dataclass(frozen=True)
class RunGroup:
    """Runs of one arm on one data set that started from random weights and ended, also those that ended in NaN."""

    data: str
    arm: str
    runs: tuple[Run, ...]

    @property
    def train_sizes(self) -> list[int | None]:
        """Numbers of training images in ascending order; `None`, all images, is last."""
        sizes = {run.train_images for run in self.runs}
        return sorted(sizes, key=lambda size: (size is None, size or 0))

    def depths(self, train_images: int | None) -> list[int]:
        """Return the depths trained on this number of images, in ascending order."""
        return sorted({run.depth for run in self.runs if run.train_images == train_images})

    def by_seed(self, depth: int, train_images: int | None) -> RunsBySeed:
        """Return seed to run for one depth and number of training images."""
        return {run.seed: run for run in self.runs if (run.depth, run.train_images) == (depth, train_images)}

    def extremes(self, train_images: int | None = None) -> DepthExtremes | None:
        """Return the shallowest and the deepest networks, or `None` if there is one depth only.

        Args:
            train_images: Number of training images; the largest if `None`.
        """
        size = self.train_sizes[-1] if train_images is None else train_images
        depths = self.depths(size)
        return None if len(depths) < 2 else DepthExtremes(self.by_seed(depths[0], size), self.by_seed(depths[-1], size))

    def depth_effects(self) -> list[DepthEffect]:
        """Compare the deepest with the shallowest networks, for each number of training images."""
        effects = []
        for size in self.train_sizes:
            depths = self.depths(size)
            if len(depths) < 2:
                continue
            shallow, deep = self.by_seed(depths[0], size), self.by_seed(depths[-1], size)
            train = compare_pairs(shallow, deep, train_error)
            if train is None:
                continue
            effects.append(
                DepthEffect(
                    data=self.data,
                    arm=self.arm,
                    shallow=depths[0],
                    deep=depths[-1],
                    train_images=size,
                    train=train,
                    unseen=compare_pairs(shallow, deep, _final_unseen_error),
                )
            )
        return effects


def group_runs(runs: Sequence[Run]) -> list[RunGroup]:
    """Return the runs grouped by data set and arm, without those that failed, were killed or started from a file."""
    ended = [run for run in runs if run.status in ("done", "diverged") and not run.is_from_file]
    return [
        RunGroup(data, arm, tuple(run for run in ended if (run.data, run.arm) == (data, arm)))
        for data in sorted({run.data for run in ended})
        for arm in ordered_arms(run.arm for run in ended if run.data == data)
    ]


def _final_unseen_error(run: Run) -> float | None:
    return unseen_error(run) if run.status == "done" else None
