"""Detectors of the failing verdicts: one function for each failing rule of `rules.py`.

A detector takes a group of runs and returns a sentence with its numbers if the rule holds, or `None`. Degradation,
vanishing, exploding and overfitting rest on a comparison between labels (depth, number of images), so that runs with
shuffled labels do not give these verdicts.
"""

import math
import statistics
from collections.abc import Callable, Iterable

from resnetlab.study.paired_comparison import DepthExtremes, PairedComparison, RunGroup, RunsBySeed, compare_pairs
from resnetlab.study.results import Run
from resnetlab.study.rules import (
    DEGRADATION_POINTS,
    EXPLODING_GRADIENT,
    FITTED_PCT,
    MIN_MOVEMENT,
    MIN_SEEDS,
    OVERFITTING_POINTS,
    UNDER_TRAINED_PCT,
)
from resnetlab.study.run_checks import has_fitted, has_learnt, has_sound_gradients, is_under_trained, is_unstable
from resnetlab.study.run_metrics import (
    first_gradient,
    first_update,
    generalisation_gap,
    late_loss_fall,
    loss_rise,
    movement,
    steepest_gradient,
    train_error,
    unseen_error,
)
from resnetlab.study.seed_stats import format_range


def _degradation(group: RunGroup) -> str | None:
    effect, extremes = main_depth_effect(group), group.extremes()
    if effect is None or extremes is None or not effect.is_clear or effect.mean < DEGRADATION_POINTS:
        return None
    deep = [extremes.deep[seed] for seed in effect.points]
    if not all(map(has_sound_gradients, deep)):
        return None
    return (
        f"{effect_text(extremes, effect)}. The deeper networks fit their own training set worse, in every seed, so it "
        "is not overfitting; by the rules of this report their gradients neither vanish nor explode (at the first step "
        f"{metric_range(first_gradient, deep)} of the weights in the median layer, "
        f"{metric_range(steepest_gradient, deep)} in the steepest): it is optimisation that fails."
        f"{_under_trained_caveat(extremes.shallow)}"
    )


def _under_trained_caveat(shallow: RunsBySeed) -> str:
    """Return a caveat if even the shallow networks are far from fitting their training set."""
    errors = [error for run in shallow.values() if (error := train_error(run)) is not None]
    if statistics.fmean(errors) <= UNDER_TRAINED_PCT:
        return ""
    return (
        f" {network_name(shallow)} has not fitted it either ({format_range(errors)} %), so longer training may change "
        "the verdict."
    )


def _vanishing(group: RunGroup) -> str | None:
    extremes = _only_deep_fails(group, lambda run: (moved := movement(run)) is not None and moved < MIN_MOVEMENT)
    if extremes is None:
        return None
    shallow, deep = extremes
    difference = compare_pairs(deep, shallow, lambda run: _log10(movement(run)))
    if difference is None or not difference.is_clear:
        return None
    return (
        f"{network_name(deep)} has not learnt (training error {metric_range(train_error, deep.values())} %) and hardly "
        f"moved: its median layer could move by {metric_range(movement, deep.values())} times its own length in the "
        f"whole run, less than {100 * MIN_MOVEMENT:g} %, because its gradients are so small; {network_name(shallow)}, "
        f"with the same learning rate, could move by {metric_range(movement, shallow.values())} times its own length, "
        f"and learns. {_powers_of_ten(difference)}"
    )


def _exploding(group: RunGroup) -> str | None:
    extremes = _only_deep_fails(
        group, lambda run: (first := first_gradient(run)) is not None and first >= EXPLODING_GRADIENT
    )
    if extremes is None:
        return None
    shallow, deep = extremes
    difference = compare_pairs(shallow, deep, lambda run: _log10(first_gradient(run)))
    if difference is None or not difference.is_clear:
        return None
    return (
        f"{network_name(deep)} does not learn ({_num_diverged(deep)} of {len(deep)} runs end in NaN): at the first "
        f"step the gradient of its median layer is {metric_range(first_gradient, deep.values())} times its weights, "
        f"and {metric_range(first_gradient, shallow.values())} times in {network_name(shallow)}, which learns. "
        f"{_powers_of_ten(difference)}"
    )


def _lr_too_high(group: RunGroup) -> str | None:
    size = group.train_sizes[-1]
    runs = group.by_seed(group.depths(size)[-1], size)
    deep = list(runs.values())
    has_sound_start = all((first := first_gradient(run)) is not None and first < EXPLODING_GRADIENT for run in deep)
    if len(deep) < MIN_SEEDS or not has_sound_start or any(map(has_learnt, deep)) or not all(map(is_unstable, deep)):
        return None
    lr = deep[0].config.recipe.lr
    return (
        f"{network_name(runs)} does not learn in any of {len(deep)} seeds ({_num_diverged(runs)} end in NaN) although "
        f"its gradients are sound at the start ({metric_range(first_gradient, deep)} of the weights): with lr {lr:g} "
        f"the first step is {metric_range(first_update, deep)} of the weights, and the highest running loss is "
        f"{metric_range(loss_rise, deep)} times the first. Try lr {lr / 10:g}."
    )


def _overfitting(group: RunGroup) -> str | None:
    return _overfitting_with_fewer_images(group) or _overfitting_with_depth(group)


def _overfitting_with_fewer_images(group: RunGroup) -> str | None:
    """Return a sentence if, at every depth, the generalisation gap is wider with the fewest images."""
    fewest, most = group.train_sizes[0], group.train_sizes[-1]
    depths = [depth for depth in group.depths(fewest) if fewest != most and depth in group.depths(most)]
    sentences = []
    for depth in depths:
        few, many = group.by_seed(depth, fewest), group.by_seed(depth, most)
        wider = compare_pairs(many, few, generalisation_gap)
        if not wider or not wider.is_clear or wider.mean < OVERFITTING_POINTS or not _all_fit(few):
            return None
        sentences.append(
            f"{network_name(few)} fits the training set ({metric_range(train_error, few.values())} %) and errs by "
            f"{metric_range(generalisation_gap, few.values())} points more on unseen images; trained on "
            f"{'all' if most is None else format(most, ',')} images, by "
            f"{metric_range(generalisation_gap, many.values())}. The gap is {wider.mean:.1f} points wider on average "
            f"over {len(wider.points)} seeds (95 % interval {wider.interval_text})."
        )
    return " ".join(sentences) or None


def _overfitting_with_depth(group: RunGroup) -> str | None:
    """Return a sentence if, for every number of training images, the deeper networks err more on unseen images."""
    sentences = []
    for size in group.train_sizes:
        extremes = group.extremes(size)
        worse = extremes and compare_pairs(*extremes, unseen_error)
        if not extremes or not worse or not worse.is_clear or worse.mean < OVERFITTING_POINTS:
            return None
        if not all(map(_all_fit, extremes)):
            return None
        sentences.append(
            f"both {network_name(extremes.shallow)} and {network_name(extremes.deep)} fit the training set (at most "
            f"{FITTED_PCT:g} %), yet the deeper errs by {worse.mean:.1f} points more on unseen images on average over "
            f"{len(worse.points)} seeds (95 % interval {worse.interval_text})."
        )
    return " ".join(sentences)


def _under_trained(group: RunGroup) -> str | None:
    size = group.train_sizes[-1]
    runs = [run for run in group.runs if run.train_images == size]
    if len({run.seed for run in runs}) < MIN_SEEDS or not all(map(is_under_trained, runs)):
        return None
    falls_pct = format_range(100 * (late_loss_fall(run) or 0) for run in runs)
    return (
        f"all {len(runs)} runs end with {metric_range(train_error, runs)} % training error while their running loss "
        f"still falls, by {falls_pct} % in the last quarter; train longer."
    )


DETECTORS: dict[str, Callable[[RunGroup], str | None]] = {
    "degradation": _degradation,
    "vanishing": _vanishing,
    "exploding": _exploding,
    "learning rate too high": _lr_too_high,
    "overfitting": _overfitting,
    "under-trained": _under_trained,
}
"""Failing kind to the function that detects it."""


def main_depth_effect(group: RunGroup) -> PairedComparison | None:
    """Compare the training errors of the deepest and the shallowest networks, with the most images."""
    extremes = group.extremes()
    return extremes and compare_pairs(*extremes, train_error)


def effect_text(extremes: DepthExtremes, effect: PairedComparison) -> str:
    """Return the difference between the deepest and the shallowest networks in words, with its interval."""
    text = (
        f"{network_name(extremes.deep)} ends {abs(effect.mean):.1f} points of training error "
        f"{'above' if effect.mean > 0 else 'below'} {network_name(extremes.shallow)}"
    )
    if effect.interval is None:
        return text
    basis = f"(signs {effect.sign_text}; 95 % interval {effect.interval_text})"
    return f"{text} on average over {len(effect.points)} seeds {basis}"


def metric_range(metric: Callable[[Run], float | None], runs: Iterable[Run]) -> str:
    """Return the lowest and the highest value of a metric as text: `1.9 to 2.4`."""
    return format_range(map(metric, runs))


def network_name(runs: RunsBySeed) -> str:
    """Return the label of the network that all these runs share: `plain-56`."""
    return next(iter(runs.values())).network


def _only_deep_fails(group: RunGroup, fails: Callable[[Run], bool]) -> DepthExtremes | None:
    """Return the extremes if, in every seed, the deep network fails and has not learnt, and the shallow one is sound.

    Vanishing and exploding need this: a failure that all depths share is not an effect of depth.
    """
    extremes = group.extremes()
    seeds = extremes.shallow.keys() & extremes.deep.keys() if extremes else set()
    if not extremes or len(seeds) < MIN_SEEDS:
        return None
    shallow, deep = ({seed: runs[seed] for seed in seeds} for runs in extremes)
    deep_fails = all(fails(run) and not has_learnt(run) for run in deep.values())
    shallow_is_sound = all(has_sound_gradients(run) and has_learnt(run) for run in shallow.values())
    return DepthExtremes(shallow, deep) if deep_fails and shallow_is_sound else None


def _all_fit(runs: RunsBySeed) -> bool:
    return all(map(has_fitted, runs.values()))


def _num_diverged(runs: RunsBySeed) -> int:
    return sum(run.status == "diverged" for run in runs.values())


def _powers_of_ten(difference: PairedComparison) -> str:
    return (
        f"This holds in each of {len(difference.points)} seeds; on average the two are {difference.mean:.1f} powers of "
        f"ten apart (95 % interval {difference.interval_text})."
    )


def _log10(value: float | None) -> float | None:
    """Return the logarithm, limited to the range of double precision: a gradient may be 0, or not finite."""
    return None if value is None else math.log10(min(max(value, 1e-300), 1e300))
