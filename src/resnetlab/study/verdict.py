"""From errors to plain sentences: is degradation seen, and how sure do the seeds let one be? No torch here."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resnetlab.study.results import Run
from resnetlab.study.spread import interval_95

DEGRADED_POINTS = 2.0
"""A rise in training error, in points, that would count as degradation; half of what CIFAR plain nets show."""

CONVERGENCE_PCT = (50, 20, 10, 5)
"""Training errors, in %, whose first step is looked for: the paper's "easier to optimise" (section 4.1)."""


@dataclass(frozen=True)
class DepthEffect:
    """What the deepest networks of an arm have, less what its shallowest have, in points of error, seed by seed."""

    data: str
    arm: str
    shallow: int
    deep: int
    train_points: dict[int, float]
    """Seed to difference of final training error; above 0: the deeper network fits worse."""
    test_points: dict[int, float]
    """Seed to difference of final test error."""

    @property
    def signs(self) -> str:
        """The sign of the training effect for each seed, in the order of the seeds."""
        return " ".join("+" if d > 0 else "−" if d < 0 else "0" for _, d in sorted(self.train_points.items()))

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean training effect (paired t over seeds), or `None` with one seed."""
        return interval_95(list(self.train_points.values()))

    @property
    def interval_text(self) -> str:
        """The interval as people write it, `−0.1 to 0.4`; `one seed` where there is none."""
        return (
            "one seed"
            if self.interval is None
            else " to ".join(f"{end:.1f}".replace("-", "−") for end in self.interval)
        )

    @property
    def verdict(self) -> str:
        """`degradation`, `no degradation` or `not enough evidence`; the rule is in `sentence`."""
        if self.interval is None:
            return "not enough evidence"
        low, high = self.interval
        if low > 0 and all(points > 0 for points in self.train_points.values()):
            return "degradation"
        return "no degradation" if high < DEGRADED_POINTS else "not enough evidence"

    @property
    def sentence(self) -> str:
        """The finding in words, with the numbers and the rule it rests on."""
        mean = statistics.fmean(self.train_points.values())
        count = len(self.train_points)
        effect = (
            f"{self.arm}-{self.deep} ends {abs(mean):.1f} points of training error "
            f"{'above' if mean > 0 else 'below'} {self.arm}-{self.shallow}"
        )
        if self.interval is None:
            return f"{effect}, from one seed: not enough evidence for a claim; use --seeds 3 or more."
        basis = f"{effect} on average over {count} seeds (signs {self.signs}; 95 % interval {self.interval_text})"
        if self.verdict == "degradation":
            return f"Degradation is seen: {basis}. The deeper network fits its own training set worse, in every seed."
        if self.verdict == "no degradation":
            return f"No degradation: {basis}, and {DEGRADED_POINTS:g} points or more are ruled out."
        return f"Not enough evidence: {basis}, which leaves both open."


def depth_effects(runs: Sequence[Run]) -> list[DepthEffect]:
    """Compare the deepest with the shallowest networks of each data set and arm, over the seeds both have."""
    done = [run for run in runs if run.status == "done"]
    effects = []
    for data, arm in sorted({(run.data, run.arm) for run in done}):
        side = [run for run in done if (run.data, run.arm) == (data, arm)]
        shallow, deep = min(run.depth for run in side), max(run.depth for run in side)
        before = {run.seed: run for run in side if run.depth == shallow}
        after = {run.seed: run for run in side if run.depth == deep}
        if shallow == deep or not before.keys() & after.keys():
            continue
        train, test = (_differences(before, after, quantity) for quantity in ("train_error_pct", "test_error_pct"))
        effects.append(DepthEffect(data, arm, shallow, deep, train, test))
    return effects


def _differences(before: Mapping[int, Run], after: Mapping[int, Run], quantity: str) -> dict[int, float]:
    seeds = sorted(before.keys() & after.keys())
    return {seed: after[seed].result[quantity] - before[seed].result[quantity] for seed in seeds}


def first_step_at(run: Run, error_pct: float) -> int | None:
    """Return the first recorded step whose running training error is at most `error_pct`, or `None` if none is."""
    return next((step for step, error in zip(*run.curve(), strict=True) if error <= error_pct), None)
