"""The effect of depth in a group of runs: the deepest networks against the best of the shallower ones."""

import statistics
from typing import NamedTuple

from resnetlab.study.run_metrics import train_error
from resnetlab.study.statistics.paired_comparison import (
    DepthPair,
    PairedComparison,
    RunGroup,
    RunsBySeed,
    compare_errors,
)
from resnetlab.study.verdicts.rules import DEGRADATION_POINTS, UNDER_TRAINED_PCT, UNDER_WAY_SHARE
from resnetlab.study.verdicts.run_checks import has_diverged, has_learnt, has_sound_gradients, is_improving
from resnetlab.study.verdicts.sentences import effect_text
from resnetlab.study.verdicts.training_progress import loss_fall_before_drop


class DepthResult(NamedTuple):
    """Two depths of a group, and the difference of their training errors."""

    pair: DepthPair
    effect: PairedComparison
    num_candidates: int = 1
    """Shallower depths among which the one of the pair was chosen."""

    @property
    def text(self) -> str:
        """The difference in words, with its interval or the reason why there is none."""
        return effect_text(self.pair, self.effect, self.num_candidates)

    @property
    def is_clear(self) -> bool:
        """Whether the deep network clearly ends above the shallow one, also in view of the choice of the latter."""
        return self.effect.is_clear_among(self.num_candidates)

    @property
    def is_worse(self) -> bool:
        """Whether the deep network clearly ends `DEGRADATION_POINTS` above the shallow one, which has learnt."""
        shallow = (self.pair.shallow[seed] for seed in self.effect.points)
        is_large = self.is_clear and self.effect.mean >= DEGRADATION_POINTS
        return is_large and all(map(has_learnt, shallow)) and not self.has_diverged_run

    @property
    def is_as_good(self) -> bool:
        """Whether the interval rules out that the deep network ends `DEGRADATION_POINTS` above the shallow one."""
        interval = self.effect.interval
        return interval is not None and interval[1] < DEGRADATION_POINTS and not self.has_diverged_run

    @property
    def has_diverged_run(self) -> bool:
        """Whether a run of the two networks ended in NaN, also one of a seed that the other network lacks."""
        return any(has_diverged(run) for networks in self.pair for run in networks.values())

    @property
    def is_better(self) -> bool:
        """Whether the deep network clearly fits its training set better."""
        return self.effect.is_clearly_below

    @property
    def is_too_short(self) -> bool:
        """Whether longer training may change the result: the deep network is not better, and training ended too early.

        Either the shallow networks have not fitted their training set, and some network was still improving when the
        learning rate was lowered (or the record is too short to tell). Or the deep networks have not fitted it, and
        were learning fast then.
        """
        runs = [run for networks in self.pair for run in networks.values()]
        shallow_may_improve = has_unfitted(self.pair.shallow) and any(is_improving(run) is not False for run in runs)
        return not self.is_better and (shallow_may_improve or is_under_way(self.pair.deep))

    @property
    def deep_is_sound(self) -> bool | None:
        """Whether the gradients of every deep run are sound; `None` if a run lacks layer statistics."""
        sound = [has_sound_gradients(self.pair.deep[seed]) for seed in self.effect.points]
        return None if None in sound else all(sound)


def main_depth_result(group: RunGroup) -> DepthResult | None:
    """Return the group's `depth_result` with the most images."""
    return depth_result(group, group.train_sizes[-1])


def depth_result(group: RunGroup, train_images: int | None) -> DepthResult | None:
    """Compare the training error of the deepest networks with that of the best shallower depth.

    Error first falls with depth and then rises (section 1), so the shallowest network may be worse than a deeper one,
    and the deepest still be worse than those between. Depths that share fewer seeds with the deepest are left out.
    """
    pairs = group.below_deepest(train_images)
    compared = [(pair, effect) for pair in pairs if (effect := compare_errors(*pair, train_error))]
    most_seeds = max((len(effect.points) for _, effect in compared), default=0)
    candidates = [(pair, effect) for pair, effect in compared if len(effect.points) == most_seeds]
    if not candidates:
        return None
    pair, effect = max(candidates, key=lambda candidate: candidate[1].mean)
    return DepthResult(pair, effect, len(candidates))


def pair_results(group: RunGroup) -> list[DepthResult]:
    """Return the result of every two depths that were trained on the same number of images and share a seed."""
    return [DepthResult(pair, effect) for pair in group.depth_pairs() if (effect := compare_errors(*pair, train_error))]


def unlearnt_shallower(group: RunGroup) -> RunsBySeed | None:
    """Return the shallowest networks, below the deepest, of which a run has not learnt: not depth made it fail."""
    pairs = group.below_deepest(group.train_sizes[-1])
    return next((pair.shallow for pair in pairs if not all(map(has_learnt, pair.shallow.values()))), None)


def is_under_way(runs: RunsBySeed) -> bool:
    """Return whether networks have not fitted their training set, and learnt fast until the rate was lowered."""
    falls = [fall for run in runs.values() if (fall := loss_fall_before_drop(run)) is not None]
    return has_unfitted(runs) and bool(falls) and statistics.fmean(falls) >= UNDER_WAY_SHARE


def has_unfitted(runs: RunsBySeed) -> bool:
    """Return whether networks have not fitted their training set, on average over seeds."""
    errors = [error for run in runs.values() if (error := train_error(run)) is not None]
    return bool(errors) and statistics.fmean(errors) > UNDER_TRAINED_PCT
