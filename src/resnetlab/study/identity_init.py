"""The solution that exists: a trained shallow network, made deeper by identity layers, beside training from scratch.

Paper: section 1. "The existence of this constructed solution indicates that a deeper model should produce no higher
training error than its shallower counterpart." No torch here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from resnetlab.study.paired_comparison import PairedComparison
from resnetlab.study.results import Run
from resnetlab.study.rules import WORSE_POINTS
from resnetlab.study.seed_stats import SeedStats, seed_stats


@dataclass(frozen=True)
class IdentityInitResult:
    """Training errors in %, over the seeds for which all four were measured."""

    source: str
    """The data set."""
    arm: str
    shallow: int
    deep: int
    seeds: tuple[int, ...]
    trained: SeedStats
    """Of the shallow network."""
    constructed: SeedStats
    """Of that network with identity layers inserted, before any further step: equal by construction, measured."""
    further: SeedStats
    """Of the constructed network, trained once more by the same recipe."""
    scratch: SeedStats
    """Of the deep network from random weights."""
    missed: PairedComparison
    """Training error of the deep network from random weights, less that of the constructed one."""
    max_logit_difference: float
    """Largest absolute difference of logits between the shallow and the constructed network, over images and seeds."""

    @property
    def sentence(self) -> str:
        """The argument in words, with its numbers."""
        return (
            f"On {self.source}, {self.arm}-{self.shallow} ends with {self.trained} % training error. With identity "
            f"layers inserted it is a {self.arm}-{self.deep} that computes the same (logits differ by "
            f"{self.max_logit_difference:.2g} at most) and has {self.constructed} %; so a {self.arm}-{self.deep} as "
            f"good exists. Trained further it has {self.further} %. The same network trained from random weights ends "
            f"with {self.scratch} %: "
            f"{'the optimiser does not find what is there.' if self._is_missed else 'not clearly worse, here.'}"
        )

    @property
    def _is_missed(self) -> bool:
        return self.missed.mean >= WORSE_POINTS and all(points > 0 for points in self.missed.points.values())


def identity_init_results(runs: Sequence[Run]) -> list[IdentityInitResult]:
    """Gather what was constructed, one for each data set, arm and pair of depths."""
    done = [run for run in runs if run.status == "done"]
    plans = sorted({(run.source, run.arm, run.origin, run.depth) for run in done if run.origin is not None})
    return [made for plan in plans if (made := _gather(done, *plan))]


def _gather(done: Sequence[Run], source: str, arm: str, shallow: int, deep: int) -> IdentityInitResult | None:
    """Return the construction over the seeds that have all three runs; `None` where there is no such seed."""
    side = [run for run in done if (run.source, run.arm) == (source, arm)]
    trained = {run.seed: run for run in side if run.depth == shallow and not run.is_from_file}
    deepened = {run.seed: run for run in side if (run.origin, run.depth) == (shallow, deep)}
    scratch = {run.seed: run for run in side if run.depth == deep and not run.is_from_file}
    seeds = sorted(trained.keys() & deepened.keys() & scratch.keys())
    if not seeds:
        return None
    starts = {seed: deepened[seed].start["start"] for seed in seeds}
    constructed = {seed: start["train_error_pct"] for seed, start in starts.items()}
    return IdentityInitResult(
        source,
        arm,
        shallow,
        deep,
        tuple(seeds),
        trained=_over(trained[seed].result["train_error_pct"] for seed in seeds),
        constructed=_over(constructed.values()),
        further=_over(deepened[seed].result["train_error_pct"] for seed in seeds),
        scratch=_over(scratch[seed].result["train_error_pct"] for seed in seeds),
        missed=PairedComparison({seed: scratch[seed].result["train_error_pct"] - constructed[seed] for seed in seeds}),
        max_logit_difference=max(start["max_logit_difference"] for start in starts.values()),
    )


def _over(values: Iterable[float]) -> SeedStats:
    found = seed_stats(list(values))
    assert found is not None  # there is a seed
    return found
