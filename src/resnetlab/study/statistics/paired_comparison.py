"""Comparisons of two networks that differ in depth or number of training images, paired by seed.

Verdicts accept only such comparisons as evidence. A comparison is clear only if every seed and the 99 % interval agree,
so the verdict depends on which run has which label: it disappears when the labels are shuffled. A run that ended in NaN
counts as the worst result, an error of 100 %; it is no measurement, so there is no interval then, and nothing is clear.
"""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from resnetlab.study.arms import CAPPED, ordered_arms
from resnetlab.study.results import Run
from resnetlab.study.run_metrics import SMALLEST_STEP, train_error, unseen_error
from resnetlab.study.statistics.multiple_comparisons import mean_interval
from resnetlab.study.statistics.seed_stats import format_interval, paired_std

WORST_ERROR_PCT = 100.0
"""Error, in %, that a run which ended in NaN counts as."""

CLEAR_LEVEL = 0.01
"""Error rate of the interval of a clear difference, whose level is 99 %."""

RunsBySeed = Mapping[int, Run]
"""Seed to run: the networks of one arm, depth and number of training images."""


@dataclass(frozen=True)
class PairedComparison:
    """Differences of one metric between two networks, seed by seed."""

    points: dict[int, float]
    """Seed to difference, in the unit of the metric (percentage points for errors)."""
    num_diverged: int = 0
    """Runs among them that ended in NaN and count as `WORST_ERROR_PCT`."""
    smallest_step: float = 0.0
    """Smallest difference that these runs can show, that of one image; the deviation over seeds counts as no less."""

    @property
    def mean(self) -> float:
        """Mean difference over seeds."""
        return statistics.fmean(self.points.values())

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean (paired t over seeds); `None` with one seed, or if a run ended in NaN."""
        return self._interval(level=0.05)

    @property
    def is_clear(self) -> bool:
        """Whether the difference is above zero in every seed, and its 99 % interval too.

        The 95 % interval, which reports give, would call one in forty differences without a cause clear.
        """
        return self.is_clear_among(1)

    @property
    def is_clearly_below(self) -> bool:
        """Whether the difference is below zero in every seed, and its 99 % interval too."""
        return replace(self, points={seed: -points for seed, points in self.points.items()}).is_clear

    def is_clear_among(self, num_candidates: int) -> bool:
        """Return whether the difference is clear although it is the largest of several that could have been taken.

        What 99 % leaves is divided by their number (Bonferroni), so that a choice among many is not clear by chance.
        """
        interval = self._interval(level=CLEAR_LEVEL / num_candidates)
        return interval is not None and interval[0] > 0 and all(d > 0 for d in self.points.values())

    def _interval(self, level: float) -> tuple[float, float] | None:
        std = paired_std(self.points.values(), [self.smallest_step])
        if std is None or self.num_diverged:
            return None
        return mean_interval(self.mean, std, len(self.points), level=level)

    @property
    def sign_text(self) -> str:
        """The sign of the difference in each seed, in the order of the seeds: `+ + −`."""
        return " ".join("+" if d > 0 else "−" if d < 0 else "0" for _, d in sorted(self.points.items()))

    @property
    def doubt(self) -> str:
        """Why a difference over several seeds is not clear: its sign differs, or the 99 % interval holds zero."""
        if len({(d > 0) - (d < 0) for d in self.points.values()}) > 1:
            return f"its sign differs between seeds ({self.sign_text})"
        ends = self._interval(level=CLEAR_LEVEL)
        if ends is None:
            return "there is no interval"
        return f"its 99 % interval, {format_interval(ends)}, holds zero"

    @property
    def interval_text(self) -> str:
        """The interval for display, `−0.1 to 0.4`, or why there is none: `one seed`, `1 run ended in NaN`."""
        if self.num_diverged:
            return f"{self.num_diverged} {'run' if self.num_diverged == 1 else 'runs'} ended in NaN"
        if self.interval is None:
            return "one seed"
        return format_interval(self.interval)


def compare_pairs(
    first: RunsBySeed, second: RunsBySeed, metric: Callable[[Run], float | None]
) -> PairedComparison | None:
    """Return metric of `second` minus metric of `first` for every seed that has both; `None` if no seed has."""
    return _compare(first, second, metric, SMALLEST_STEP.get(metric))


def _compare(
    first: RunsBySeed,
    second: RunsBySeed,
    metric: Callable[[Run], float | None],
    smallest_step: Callable[[Run], float] | None,
) -> PairedComparison | None:
    points: dict[int, float] = {}
    for seed in sorted(first.keys() & second.keys()):
        before, after = metric(first[seed]), metric(second[seed])
        if before is not None and after is not None:
            points[seed] = after - before
    runs = [runs[seed] for runs in (first, second) for seed in points]
    steps = map(smallest_step, runs) if smallest_step else ()
    return PairedComparison(points, smallest_step=max(steps, default=0.0)) if points else None


def compare_errors(
    first: RunsBySeed, second: RunsBySeed, error: Callable[[Run], float | None]
) -> PairedComparison | None:
    """Compare as `compare_pairs`, with `WORST_ERROR_PCT` for every run that ended in NaN."""

    def or_worst(run: Run) -> float | None:
        return WORST_ERROR_PCT if run.status == "diverged" else error(run)

    compared = _compare(first, second, or_worst, SMALLEST_STEP.get(error))
    if compared is None:
        return None
    runs = [runs[seed] for runs in (first, second) for seed in compared.points]
    return replace(compared, num_diverged=sum(run.status == "diverged" for run in runs))


class DepthPair(NamedTuple):
    """Two networks of a group that differ in depth only."""

    shallow: RunsBySeed
    deep: RunsBySeed


@dataclass(frozen=True)
class DepthEffect:
    """Errors of an arm's deepest networks minus those of shallower ones, paired by seed."""

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
    control: "RunGroup | None" = None
    """The runs of the same networks with a limit on the step of each layer (`arms.CAPPED`)."""

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

    def extremes(self, train_images: int | None = None) -> DepthPair | None:
        """Return the shallowest and the deepest networks, or `None` if there is one depth only.

        Args:
            train_images: Number of training images; the largest if `None`.
        """
        size = self.train_sizes[-1] if train_images is None else train_images
        depths = self.depths(size)
        return None if len(depths) < 2 else DepthPair(self.by_seed(depths[0], size), self.by_seed(depths[-1], size))

    def depth_pairs(self) -> list[DepthPair]:
        """Return every two depths trained on the same number of images, the shallower network first."""
        return [
            DepthPair(self.by_seed(shallow, size), self.by_seed(deep, size))
            for size in self.train_sizes
            for shallow, deep in itertools.combinations(self.depths(size), 2)
        ]

    def below_deepest(self, train_images: int | None) -> list[DepthPair]:
        """Return the deepest networks beside each of the shallower depths, the shallowest first.

        Args:
            train_images: Number of training images; `None` for all.
        """
        *shallower, deepest = self.depths(train_images)
        deep = self.by_seed(deepest, train_images)
        return [DepthPair(self.by_seed(depth, train_images), deep) for depth in shallower]

    def depth_effects(self) -> list[DepthEffect]:
        """Compare the deepest networks with every shallower depth, for each number of training images."""
        return [
            DepthEffect(
                data=self.data,
                arm=self.arm,
                shallow=depth,
                deep=self.depths(size)[-1],
                train_images=size,
                train=train,
                unseen=compare_errors(*pair, unseen_error),
            )
            for size in self.train_sizes
            for depth, pair in zip(self.depths(size), self.below_deepest(size), strict=False)
            if (train := compare_errors(*pair, train_error)) is not None
        ]


def group_runs(runs: Sequence[Run]) -> list[RunGroup]:
    """Return the runs grouped by data set and arm, without those that failed, were killed or started from a file."""
    ended = [run for run in runs if run.status in ("done", "diverged") and not run.is_from_file]
    by_arm: dict[tuple[str, str], list[Run]] = {}
    for run in ended:
        by_arm.setdefault((run.data, run.arm), []).append(run)
    return [
        RunGroup(data, arm, tuple(by_arm[data, arm]), _control(data, arm, by_arm))
        for data in sorted({run.data for run in ended})
        for arm in ordered_arms(run.arm for run in ended if run.data == data)
    ]


def _control(data: str, arm: str, by_arm: Mapping[tuple[str, str], Sequence[Run]]) -> RunGroup | None:
    runs = by_arm.get((data, arm + CAPPED))
    return None if runs is None else RunGroup(data, arm + CAPPED, tuple(runs))
