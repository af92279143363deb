"""Identity initialisation: a trained shallow network, deepened by identity layers, against training from scratch.

Paper: section 1. "The existence of this constructed solution indicates that a deeper model should produce no higher
training error than its shallower counterpart."
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resnetlab.study.results import Run
from resnetlab.study.run_metrics import epoch_selection, one_image_pct
from resnetlab.study.statistics.paired_comparison import WORST_ERROR_PCT, PairedComparison
from resnetlab.study.statistics.seed_stats import SeedStats, seed_stats
from resnetlab.study.verdicts.rules import DEGRADATION_POINTS


@dataclass(frozen=True)
class IdentityInitResult:
    """Four training errors, in %, over the seeds that have all four runs; a run that ended in NaN counts as 100 %."""

    data_label: str
    """The training images, as `Run.data_label`."""
    arm: str
    shallow: int
    """Depth of the shallow network."""
    deep: int
    """Depth of the deep networks."""
    seeds: tuple[int, ...]
    shallow_error: SeedStats
    """Error of the trained shallow network."""
    deepened_error: SeedStats
    """Error of that network with identity layers inserted, before any further step; measured, equal in theory."""
    further_error: SeedStats
    """Error of the deepened network after training with the same recipe."""
    scratch_error: SeedStats
    """Error of the deep network trained from random weights."""
    excess: PairedComparison
    """`scratch_error` minus `deepened_error`, paired by seed."""
    max_logit_difference: float
    """Largest absolute logit difference between the shallow and the deepened network, over images and seeds."""
    selection: str | None = None
    """The setting by which validation images selected the epochs that were measured; `None` for the last epochs."""

    @property
    def sentence(self) -> str:
        """The argument in words, with its numbers."""
        deep = f"{self.arm}-{self.deep}"
        return (
            f"On {self.data_label}, {self.arm}-{self.shallow} ends with {self.shallow_error} % training error. With "
            f"identity layers inserted it is a {deep} that computes the same (logits differ by "
            f"{self.max_logit_difference:.2g} at most) and has {self.deepened_error} %; so a {deep} of the same "
            f"quality exists. Trained further it has {self.further_error} %. The same network trained from random "
            f"weights ends with {self.scratch_error} % ({self._excess_text}){self._conclusion}"
        )

    @property
    def _conclusion(self) -> str:
        if self.selection is not None:
            return (
                f"; with {self.selection} these are errors of epochs that validation images selected, so nothing "
                "follows about the optimiser."
            )
        interval = self.excess.interval
        if self.excess.is_clear and self.excess.mean >= DEGRADATION_POINTS:
            return ", so the optimiser does not find that solution."
        if interval is not None and interval[1] < DEGRADATION_POINTS:
            return f", which rules out {DEGRADATION_POINTS:g} points or more."
        return "; that is too little to say whether the optimiser finds that solution."

    @property
    def _excess_text(self) -> str:
        if self.excess.interval is None:
            counted = f" and counts as {WORST_ERROR_PCT:g} %" if self.excess.num_diverged else ""
            return f"{self.excess.mean:+.1f} points, {self.excess.interval_text}{counted}".replace("-", "−")
        return f"difference over {len(self.seeds)} seeds: 95 % interval {self.excess.interval_text} points"

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `results.json`; its keys are stable between versions."""
        return {
            "source": self.data_label,
            "arm": self.arm,
            "shallow": self.shallow,
            "deep": self.deep,
            "seeds": self.seeds,
            "trained": asdict(self.shallow_error),
            "constructed": asdict(self.deepened_error),
            "further": asdict(self.further_error),
            "scratch": asdict(self.scratch_error),
            "missed": asdict(self.excess),
            "max_logit_difference": self.max_logit_difference,
            "sentence": self.sentence,
        }


def identity_init_results(runs: Sequence[Run]) -> list[IdentityInitResult]:
    """Return one result for each data set, arm and pair of depths that has deepened runs."""
    ended = [run for run in runs if run.status in ("done", "diverged")]
    deepened = {
        (run.data_label, run.arm, run.deepened_from, run.depth) for run in ended if run.deepened_from is not None
    }
    return [result for key in sorted(deepened) if (result := _over_seeds(ended, *key))]


def _over_seeds(ended: Sequence[Run], data_label: str, arm: str, shallow: int, deep: int) -> IdentityInitResult | None:
    """Return the result over the seeds that have all three runs; `None` if no seed has."""
    group = [run for run in ended if (run.data_label, run.arm) == (data_label, arm)]
    trained = {run.seed: run for run in group if run.depth == shallow and not run.is_from_file}
    deepened = {run.seed: run for run in group if (run.deepened_from, run.depth) == (shallow, deep)}
    scratch = {run.seed: run for run in group if run.depth == deep and not run.is_from_file}
    seeds = sorted(trained.keys() & deepened.keys() & scratch.keys())
    if not seeds:
        return None
    starts = {seed: deepened[seed].start["start"] for seed in seeds}
    start_errors = {seed: start["train_error_pct"] for seed, start in starts.items()}
    scratch_errors = {seed: _final_error(scratch[seed]) for seed in seeds}
    return IdentityInitResult(
        data_label=data_label,
        arm=arm,
        shallow=shallow,
        deep=deep,
        seeds=tuple(seeds),
        shallow_error=_stats(_final_error(trained[seed]) for seed in seeds),
        deepened_error=_stats(start_errors.values()),
        further_error=_stats(_final_error(deepened[seed]) for seed in seeds),
        scratch_error=_stats(scratch_errors.values()),
        excess=PairedComparison(
            {seed: scratch_errors[seed] - start_errors[seed] for seed in seeds},
            num_diverged=sum(scratch[seed].status == "diverged" for seed in seeds),
            smallest_step=max(one_image_pct(scratch[seed], "train") for seed in seeds),
        ),
        max_logit_difference=max(start["max_logit_difference"] for start in starts.values()),
        selection=next(filter(None, (epoch_selection(scratch[seed]) for seed in seeds)), None),
    )


def _final_error(run: Run) -> float:
    return WORST_ERROR_PCT if run.status == "diverged" else run.result["train_error_pct"]


def _stats(values: Iterable[float]) -> SeedStats:
    stats = seed_stats(list(values))
    assert stats is not None  # there is at least one seed
    return stats
