"""The solution that exists: a trained shallow network, made deeper by identity layers, beside training from scratch.

Paper: section 1. "The existence of this constructed solution indicates that a deeper model should produce no higher
training error than its shallower counterpart." No torch here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from resnetlab.study.results import Run
from resnetlab.study.spread import Spread, spread


@dataclass(frozen=True)
class Construction:
    """Training errors in %, over the seeds for which all four were measured."""

    source: str
    """The data set."""
    arm: str
    shallow: int
    deep: int
    seeds: tuple[int, ...]
    trained: Spread
    """Of the shallow network."""
    constructed: Spread
    """Of that network with identity layers inserted, before any further step: equal by construction, measured."""
    further: Spread
    """Of the constructed network, trained once more by the same recipe."""
    scratch: Spread
    """Of the deep network from random weights."""
    max_logit_difference: float
    """Largest absolute difference of logits between the shallow and the constructed network, over images and seeds."""

    @property
    def sentence(self) -> str:
        """The argument in words, with its numbers."""
        return (
            f"{self.arm}-{self.shallow} ends with {self.trained} % training error. With identity layers inserted it is "
            f"a {self.arm}-{self.deep} that computes the same (logits differ by {self.max_logit_difference:.2g} at "
            f"most) and has {self.constructed} %; so a {self.arm}-{self.deep} as good exists. Trained further it has "
            f"{self.further} %. The same network trained from random weights ends with {self.scratch} %: "
            f"{'the optimiser does not find what is there.' if self._is_missed else 'no worse, here.'}"
        )

    @property
    def _is_missed(self) -> bool:
        return self.scratch.mean > self.constructed.mean


def constructions(runs: Sequence[Run]) -> list[Construction]:
    """Gather what was constructed, one line for each data set and arm."""
    done = {(run.source, run.arm, run.depth, run.is_deepened, run.seed): run for run in runs if run.status == "done"}
    found = []
    for source, arm, deep, start in sorted({_kind(run) for run in done.values() if run.is_deepened}):
        quartets = [
            quartet
            for seed in sorted({run.seed for run in done.values()})
            if (quartet := _quartet(done, source, arm, start, deep, seed))
        ]
        spreads = [spread(column) for column in zip(*(errors for _, errors, _ in quartets), strict=True)]
        if quartets and None not in spreads:
            seeds, difference = tuple(seed for seed, _, _ in quartets), max(most for _, _, most in quartets)
            trained, constructed, further, scratch = (one for one in spreads if one is not None)
            found.append(
                Construction(source, arm, start, deep, seeds, trained, constructed, further, scratch, difference)
            )
    return found


def _kind(run: Run) -> tuple[str, str, int, int]:
    return run.source, run.arm, run.depth, run.start["start"]["depth"]


def _quartet(
    done: dict[tuple[str, str, int, bool, int], Run], source: str, arm: str, shallow: int, deep: int, seed: int
) -> tuple[int, tuple[float, float, float, float], float] | None:
    """Return a seed's four training errors and the difference of logits, or `None` where a run is missing."""
    keys = ((shallow, False), (deep, True), (deep, False))
    there = [done.get((source, arm, depth, deepened, seed)) for depth, deepened in keys]
    trained, constructed, scratch = there
    if trained is None or constructed is None or scratch is None:
        return None
    start = constructed.start["start"]
    last, further, anew = (run.result["train_error_pct"] for run in (trained, constructed, scratch))
    return seed, (last, start["train_error_pct"], further, anew), start["max_logit_difference"]
