"""Comparisons between arms: the errors of every two arms at equal depth, paired by seed, and a ranking of the arms.

A difference counts as clear if its two-sided p (paired Student's t over seeds) is below 5 % after Holm's correction for
all comparisons of one data set and one error. Everything else is a tie. A run that ended in NaN counts as an error of
100 %, so an arm that diverges is ranked by it instead of being left out.
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from resnetlab.study.results import Run
from resnetlab.study.run_metrics import one_image_pct
from resnetlab.study.statistics.multiple_comparisons import holm, mean_interval, p_value
from resnetlab.study.statistics.paired_comparison import WORST_ERROR_PCT, RunsBySeed, group_runs
from resnetlab.study.statistics.seed_stats import format_interval, paired_std

SPLITS = {"train": "training error", "val": "validation error", "test": "test error"}
"""Splits whose errors are compared, with the words for them."""

LEVEL = 0.05
"""Corrected p below which a difference counts as clear."""

FIXED_SEEDS = (
    "Values of p and intervals hold for a number of seeds that was fixed before the results were seen; seeds that are "
    "added until a difference is clear find one too often."
)
"""The effect of repeated looks at the results on a test, in words."""

RULE = (
    f"A difference is clear if its p (paired Student's t over seeds, two-sided) is below {100 * LEVEL:g} % after "
    "Holm's correction for all comparisons of one data set and one error; otherwise the two arms tie. The interval is "
    "that of a single comparison, without the correction. Arms are ranked if all have two seeds or more in "
    "common: an arm's rank is 1 plus the number of arms that are clearly better, its error the mean over the "
    f"seeds that all arms share. A run that ended in NaN counts as {WORST_ERROR_PCT:g} %. {FIXED_SEEDS}"
)
"""The rule in words, for reports."""


@dataclass(frozen=True)
class Setting:
    """The condition under which arms are compared: data set, `depth` in layers, images and split are equal."""

    data: str
    depth: int
    train_images: int | None
    """Size of the subset of the training split; `None` for all images."""
    split: str
    """A key of `SPLITS`."""

    @property
    def title(self) -> str:
        """The condition for display, without the error: `digits, 20 layers`, `digits, 50 images, 20 layers`."""
        images = "" if self.train_images is None else f", {self.train_images:,} images"
        return f"{self.data}{images}, {self.depth} layers"


@dataclass(frozen=True)
class ArmComparison:
    """Error of one arm minus that of another at equal depth, seed by seed."""

    setting: Setting
    """Data set, depth, number of training images and split."""
    first: str
    """The arm that is subtracted."""
    second: str
    """The arm from which it is subtracted."""
    points: dict[int, float]
    """Seed to error of `second` minus error of `first`, in percentage points."""
    num_diverged: int
    """Runs among them that ended in NaN and count as an error of 100 %."""
    mean: float
    """Mean of `points`."""
    std: float | None
    """Standard deviation over seeds, at least that of one image; `None` with one seed."""
    p: float | None
    """Two-sided p of the paired t test; `None` with one seed."""
    p_holm: float | None = None
    """`p` after Holm's correction."""
    num_comparisons: int = 1
    """Comparisons that the correction accounts for."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean (Student's t over seeds), without correction; `None` with one seed."""
        if self.std is None:
            return None
        return mean_interval(self.mean, self.std, len(self.points), level=LEVEL)

    @property
    def better(self) -> str | None:
        """The arm with the clearly lower error; `None` for a tie."""
        if self.p_holm is None or self.p_holm >= LEVEL:
            return None
        return self.first if self.mean > 0 else self.second

    @property
    def outcome(self) -> str:
        """The result in a few words: `A is better`, `tie`, `one seed`."""
        if self.p_holm is None:
            return "one seed"
        if self.better is not None:
            return f"{self.better} is better"
        interval = self.interval
        is_uncorrected = interval is not None and not interval[0] <= 0 <= interval[1]
        return "tie after the correction" if is_uncorrected else "tie"

    @property
    def interval_text(self) -> str:
        """The interval for display: `−0.1 to 0.4`; `one seed` if there is none."""
        ends = self.interval
        return "one seed" if ends is None else format_interval(ends)

    @property
    def p_text(self) -> str:
        """The corrected p for display: `0.012`, `<0.001`; `–` if there is none."""
        if self.p_holm is None:
            return "–"
        return "<0.001" if self.p_holm < 0.001 else f"{self.p_holm:.3f}"

    @property
    def _p_words(self) -> str:
        if self.num_comparisons == 1:
            return f"p {self.p_text}"
        return f"p {self.p_text} after Holm's correction for {self.num_comparisons} comparisons"

    def __str__(self) -> str:
        mean = f"{self.mean:+.2f}".replace("-", "−")
        diverged = f"; {self.num_diverged} ended in NaN, counted as 100 %" if self.num_diverged else ""
        basis = f"95 % interval {self.interval_text}, {self._p_words}"
        return (
            f"{self.second} minus {self.first}, {self.setting.title}, {SPLITS[self.setting.split]}: {mean} points over "
            f"{len(self.points)} seed{'s' * (len(self.points) != 1)} ({basis}{diverged}): {self.outcome}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `results.json`; its keys are stable between versions."""
        numbers = {name: value for name, value in asdict(self).items() if name not in ("setting", "std")}
        derived = {"interval_95": self.interval, "better": self.better, "outcome": self.outcome}
        return {**asdict(self.setting), **numbers, **derived}


def arm_comparisons(runs: Sequence[Run]) -> list[ArmComparison]:
    """Compare every two arms of each data set, depth, number of images and split, with Holm's correction.

    Runs that started from a file are left out, and so are runs that failed or are unfinished.
    """
    found: list[ArmComparison] = []
    for setting, arms in arms_by_setting(runs).items():
        for first, second in itertools.combinations(arms, 2):
            comparison = compare(setting, (first, arms[first]), (second, arms[second]))
            found += [] if comparison is None else [comparison]
    return with_correction(found)


def with_correction(comparisons: Sequence[ArmComparison]) -> list[ArmComparison]:
    """Return the comparisons with Holm's correction for all of the same data set and error."""
    families: dict[tuple[str, str], list[float]] = {}
    for comparison in comparisons:
        if comparison.p is not None:
            families.setdefault(_family(comparison), []).append(comparison.p)
    return [_corrected(comparison, families.get(_family(comparison), [])) for comparison in comparisons]


def error_pct(run: Run, split: str) -> float | None:
    """Return the error of an ended run on `train`, `val` or `test`, in %: 100 if it ended in NaN."""
    return WORST_ERROR_PCT if run.status == "diverged" else run.result.get(f"{split}_error_pct")


def arms_by_setting(runs: Sequence[Run]) -> dict[Setting, dict[str, RunsBySeed]]:
    """Return the ended runs by setting, arm and seed; arms are in the order of tables."""
    found: dict[Setting, dict[str, RunsBySeed]] = {}
    for split in SPLITS:
        for group in group_runs(runs):
            known = any(run.result.get(f"{split}_error_pct") is not None for run in runs if run.data == group.data)
            if not known and split != "train":  # there is no such split
                continue
            for images in group.train_sizes:
                for depth in group.depths(images):
                    setting = Setting(group.data, depth, images, split)
                    found.setdefault(setting, {})[group.arm] = group.by_seed(depth, images)
    return dict(sorted(found.items(), key=lambda item: (item[0].data, _size(item[0]), item[0].depth)))


def _size(setting: Setting) -> tuple[bool, int]:
    return setting.train_images is None, setting.train_images or 0


def compare(setting: Setting, first: tuple[str, RunsBySeed], second: tuple[str, RunsBySeed]) -> ArmComparison | None:
    """Return the error of `second` minus that of `first` on the seeds of both, uncorrected; `None` if there are none.

    Args:
        setting: The condition, and the split whose errors are compared.
        first: Name and runs by seed.
        second: Name and runs by seed.
    """
    (first_arm, before), (second_arm, after) = first, second
    points: dict[int, float] = {}
    for seed in sorted(before.keys() & after.keys()):
        errors = error_pct(before[seed], setting.split), error_pct(after[seed], setting.split)
        if errors[0] is not None and errors[1] is not None:
            points[seed] = errors[1] - errors[0]
    if not points:
        return None
    paired = [runs[seed] for runs in (before, after) for seed in points]
    mean = statistics.fmean(points.values())
    std = paired_std(points.values(), (one_image_pct(run, setting.split) for run in paired))
    return ArmComparison(
        setting=setting,
        first=first_arm,
        second=second_arm,
        points=points,
        num_diverged=sum(run.status == "diverged" for run in paired),
        mean=mean,
        std=std,
        p=None if std is None else p_value(mean, std, len(points)),
    )


def _family(comparison: ArmComparison) -> tuple[str, str]:
    return comparison.setting.data, comparison.setting.split


def _corrected(comparison: ArmComparison, family: Sequence[float]) -> ArmComparison:
    if comparison.p is None:
        return comparison
    return replace(comparison, p_holm=holm(comparison.p, family), num_comparisons=len(family))


MOST_SEEDS = 100
"""Seeds above which a difference counts as too small to look for."""


def seeds_needed(comparison: ArmComparison) -> int | None:
    """Return the seeds from which a tie would be clear if mean and deviation stayed; `None` if above `MOST_SEEDS`.

    The correction is taken at its strictest: p times the number of comparisons.
    """
    if comparison.std is None or comparison.mean == 0:
        return None
    counts = range(len(comparison.points) + 1, MOST_SEEDS + 1)
    p_values: Mapping[int, float] = {count: p_value(comparison.mean, comparison.std, count) for count in counts}
    return next((count for count, p in p_values.items() if p * comparison.num_comparisons < LEVEL), None)
