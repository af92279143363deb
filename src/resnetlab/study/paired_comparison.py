"""Two networks that differ in one label, compared seed by seed: the only evidence a verdict accepts. No torch here.

Comparing pairs, and asking every seed and the interval to agree, makes a verdict depend on which run is called what:
deal the labels out anew, and it is gone.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from resnetlab.study.arms import ordered_arms
from resnetlab.study.results import Run
from resnetlab.study.run_metrics import train_error, unseen_error_pct
from resnetlab.study.seed_stats import interval_95


@dataclass(frozen=True)
class PairedComparison:
    """What one side has less what the other has, seed by seed."""

    points: dict[int, float]
    """Seed to difference."""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.points.values())

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean (paired t over seeds), or `None` with one seed."""
        return interval_95(list(self.points.values()))

    @property
    def is_clear(self) -> bool:
        """Every seed is above zero, and so is the interval."""
        return self.interval is not None and self.interval[0] > 0 and all(d > 0 for d in self.points.values())

    @property
    def signs(self) -> str:
        """The sign for each seed, in the order of the seeds."""
        return " ".join("+" if d > 0 else "−" if d < 0 else "0" for _, d in sorted(self.points.items()))

    @property
    def interval_text(self) -> str:
        """The interval as people write it, `−0.1 to 0.4`; `one seed` where there is none."""
        return (
            "one seed"
            if self.interval is None
            else " to ".join(f"{end:.1f}".replace("-", "−") for end in self.interval)
        )


def compare_pairs(
    low: Mapping[int, Run], high: Mapping[int, Run], quantity: Callable[[Run], float | None]
) -> PairedComparison | None:
    """Compare two sides (seed to run) over the seeds for which both have the quantity; `None` where there are none."""
    points: dict[int, float] = {}
    for seed in sorted(low.keys() & high.keys()):
        before, after = quantity(low[seed]), quantity(high[seed])
        if before is not None and after is not None:
            points[seed] = after - before
    return PairedComparison(points) if points else None


@dataclass(frozen=True)
class DepthEffect:
    """What the deepest networks of an arm have, less what its shallowest have, in points of error, seed by seed."""

    data: str
    arm: str
    shallow: int
    deep: int
    train_images: int | None
    train: PairedComparison
    """Of final training error; above 0: the deeper network fits worse."""
    unseen: PairedComparison | None
    """Of the final test error, or validation error where there is no test split."""


@dataclass(frozen=True)
class RunGroup:
    """The runs of one arm on one data set that started from random weights and ended, be it in NaN."""

    data: str
    arm: str
    runs: tuple[Run, ...]

    @property
    def sizes(self) -> list[int | None]:
        """Numbers of training images, fewest first; `None`, which stands for all, last."""
        sizes = {run.train_images for run in self.runs}
        return sorted(sizes, key=lambda size: (size is None, size or 0))

    def depths(self, size: int | None) -> list[int]:
        """Depths that were trained on so many images, shallow first."""
        return sorted({run.depth for run in self.runs if run.train_images == size})

    def at(self, depth: int, size: int | None) -> dict[int, Run]:
        """Return seed to run at one depth and number of training images."""
        return {run.seed: run for run in self.runs if (run.depth, run.train_images) == (depth, size)}

    def ends(self, size: int | None = None) -> tuple[dict[int, Run], dict[int, Run]] | None:
        """Return the shallowest and the deepest networks, or `None` with one depth; on the most images if not said."""
        size = self.sizes[-1] if size is None else size
        depths = self.depths(size)
        return None if len(depths) < 2 else (self.at(depths[0], size), self.at(depths[-1], size))

    def effects(self) -> list[DepthEffect]:
        """Compare the deepest with the shallowest networks for each number of training images."""
        found = []
        for size in self.sizes:
            shallow, *_, deep = depths if len(depths := self.depths(size)) > 1 else (0, 0)
            before, after = self.at(shallow, size), self.at(deep, size)
            train = compare_pairs(before, after, train_error)
            if shallow != deep and train:
                unseen = compare_pairs(
                    before, after, lambda run: unseen_error_pct(run) if run.status == "done" else None
                )
                found.append(DepthEffect(self.data, self.arm, shallow, deep, size, train, unseen))
        return found


def group_runs(runs: Sequence[Run]) -> list[RunGroup]:
    """Sort runs into groups: those that ended by themselves, not those that were killed or failed."""
    there = [run for run in runs if run.status in ("done", "diverged") and not run.is_from_file]
    return [
        RunGroup(data, arm, tuple(run for run in there if (run.data, run.arm) == (data, arm)))
        for data in sorted({run.data for run in there})
        for arm in ordered_arms(run.arm for run in there if run.data == data)
    ]
