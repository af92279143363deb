"""Detectors of the failing verdicts: one function for each failing rule of `rules.py`.

A detector takes a group of runs and returns a sentence with its numbers if the rule holds, or `None`. Degradation,
vanishing, exploding and overfitting rest on a comparison between labels (depth, number of images), so that runs with
shuffled labels do not give these verdicts.
"""

import math
from collections.abc import Callable

from resnetlab.study.results import Run
from resnetlab.study.run_metrics import (
    epoch_selection,
    first_gradient,
    first_update,
    loss_rise,
    movement,
    train_error,
    worst_gradient,
)
from resnetlab.study.statistics.paired_comparison import DepthPair, RunGroup, RunsBySeed, compare_pairs
from resnetlab.study.verdicts.degradation import control_fails_too, detect_degradation, detect_long_steps
from resnetlab.study.verdicts.layer_steps import layer_steps
from resnetlab.study.verdicts.overfitting import detect_overfitting
from resnetlab.study.verdicts.rules import EXPLODING_GRADIENT, MIN_SEEDS
from resnetlab.study.verdicts.run_checks import (
    has_diverged,
    has_exploding_gradients,
    has_learnt,
    has_sound_gradients,
    has_vanishing_gradients,
    is_rising,
    is_under_trained,
)
from resnetlab.study.verdicts.sentences import diverged_text, metric_range, network_name, orders_of_magnitude
from resnetlab.study.verdicts.training_progress import loss_fall_before_drop
from resnetlab.training.optimizers.lr_schedule import lower_lr


def _vanishing(group: RunGroup) -> str | None:
    extremes = _only_deep_fails(group, has_vanishing_gradients)
    size = group.train_sizes[-1]
    if extremes is None or any(has_diverged(run) for run in group.runs if run.train_images == size):
        return None
    shallow, deep = extremes
    difference = compare_pairs(shallow, deep, _stalled_pct)
    if difference is None or not difference.is_clear:
        return None
    distance = compare_pairs(deep, shallow, lambda run: _log10(movement(run)))
    movements = [movement(run) for run in (*shallow.values(), *deep.values())]
    return (
        f"{network_name(deep)} has not learnt (training error {metric_range(train_error, deep.values())} %), and "
        f"{metric_range(_stalled_pct, deep.values())} % of its layers hardly move for a quarter of the run or longer, "
        f"because their gradients are so small: in the whole run the median layer could move by "
        f"{metric_range(movement, deep.values())} times its own length; {network_name(shallow)}, with the same "
        f"learning rate, could move by {metric_range(movement, shallow.values())} times its own length, and learns. "
        f"{orders_of_magnitude(distance or difference, movements)}"
    )


def _exploding(group: RunGroup) -> str | None:
    if control_fails_too(group):
        return None
    extremes = _only_deep_fails(group, has_exploding_gradients)
    if extremes is None:
        return detect_long_steps(group)
    shallow, deep = extremes
    difference = compare_pairs(shallow, deep, lambda run: _log10(first_gradient(run)))
    if difference is None or not difference.is_clear:
        return None
    gradients = [first_gradient(run) for run in (*shallow.values(), *deep.values())]
    return (
        f"{network_name(deep)} does not learn ({diverged_text(deep)}): at the first step the gradient of its median "
        f"layer is {metric_range(first_gradient, deep.values())} times its weights, and "
        f"{metric_range(first_gradient, shallow.values())} times in {network_name(shallow)}, which learns. "
        f"{orders_of_magnitude(difference, gradients)}"
    )


def _lr_too_high(group: RunGroup) -> str | None:
    size = group.train_sizes[-1]
    runs = group.by_seed(group.depths(size)[-1], size)
    deep = list(runs.values())
    if control_fails_too(group) or len(deep) < MIN_SEEDS or not _fails_by_rate(runs):
        return None
    lr = deep[0].config.recipe.lr
    seen = [
        f"{name} is {metric_range(metric, deep)} {unit}"
        for name, metric, unit in (
            ("the first step", first_update, "of the weights"),
            ("the highest running loss", loss_rise, "times the first"),
        )
        if any(metric(run) is not None for run in deep)
    ]
    with_lr = f" With lr {lr:g} {', and '.join(seen)}." if seen else ""
    return (
        f"{network_name(runs)} does not learn in any of {len(deep)} seeds ({diverged_text(runs)}) although the "
        f"gradient of its median layer does not explode (at the start {metric_range(first_gradient, deep)} of the "
        f"weights).{with_lr} Try lr {lower_lr(lr):g}."
    )


def _unstable(group: RunGroup) -> str | None:
    """Return a sentence on the networks of which a run ended in NaN: the worst result there is, whatever others did.

    Networks whose failure the verdicts exploding or learning rate too high explain are left out.
    """
    networks = _unexplained_networks(group)
    if not networks:
        return None
    counts = []
    for runs in networks:
        done = [run for run in runs.values() if run.status == "done"]
        others = f", the others end at {metric_range(train_error, done)} % training error" if done else ""
        counts.append(f"{network_name(runs)}: {diverged_text(runs)}{others}")
    lr = next(iter(networks[0].values())).config.recipe.lr
    return (
        f"{'; '.join(counts)}. A run that ends in NaN is the worst result, so nothing is said about depth from "
        f"{'this network' if len(networks) == 1 else 'these networks'}; try lr {lower_lr(lr):g} or a warm-up."
    )


def _unexplained_networks(group: RunGroup) -> list[RunsBySeed]:
    """Return the networks of several seeds of which a run ended in NaN for a reason that no other verdict names."""
    networks = [group.by_seed(depth, size) for size in group.train_sizes for depth in group.depths(size)]
    networks = [runs for runs in networks if len(runs) >= MIN_SEEDS and any(map(has_diverged, runs.values()))]
    if not networks or any(map(epoch_selection, group.runs)):  # selected epochs give neither of the two verdicts
        return networks
    explodes, rate_is_too_high = _exploding(group) is not None, _lr_too_high(group) is not None
    return [
        runs
        for runs in networks
        if not (explodes and all(has_exploding_gradients(run) for run in runs.values() if has_diverged(run)))
        and not (rate_is_too_high and _fails_by_rate(runs))
    ]


def _under_trained(group: RunGroup) -> str | None:
    size = group.train_sizes[-1]
    runs = [run for run in group.runs if run.train_images == size]
    if len({run.seed for run in runs}) < MIN_SEEDS or not all(map(is_under_trained, runs)):
        return None
    falls_pct = metric_range(lambda run: 100 * (loss_fall_before_drop(run) or 0), runs)
    return (
        f"all {len(runs)} runs end with {metric_range(train_error, runs)} % training error although their running loss "
        f"still fell before the learning rate was lowered, by {falls_pct} % over the last quarter of those steps; "
        "train longer."
    )


DETECTORS: dict[str, Callable[[RunGroup], str | None]] = {
    "degradation": detect_degradation,
    "vanishing": _vanishing,
    "exploding": _exploding,
    "learning rate too high": _lr_too_high,
    "unstable": _unstable,
    "overfitting": detect_overfitting,
    "under-trained": _under_trained,
}
"""Failing kind to the function that detects it."""


def _only_deep_fails(group: RunGroup, fails: Callable[[Run], bool]) -> DepthPair | None:
    """Return the extremes if, in every run, the deep network fails and has not learnt, and the shallow one is sound.

    Vanishing and exploding need this: a failure that all depths share is not an effect of depth.
    """
    extremes = group.extremes()
    seeds = extremes.shallow.keys() & extremes.deep.keys() if extremes else set()
    if not extremes or len(seeds) < MIN_SEEDS:
        return None
    deep_fails = all(fails(run) and not has_learnt(run) for run in extremes.deep.values())
    shallow_is_sound = all(has_sound_gradients(run) and has_learnt(run) for run in extremes.shallow.values())
    shallow, deep = ({seed: runs[seed] for seed in seeds} for runs in extremes)
    return DepthPair(shallow, deep) if deep_fails and shallow_is_sound else None


def _fails_by_rate(runs: RunsBySeed) -> bool:
    """Return whether no run of a network learns, all are rising, and no gradient explodes while the loss is finite."""
    has_sound_start = all(
        (worst := worst_gradient(run)) is not None and worst < EXPLODING_GRADIENT for run in runs.values()
    )
    return has_sound_start and not any(map(has_learnt, runs.values())) and all(map(is_rising, runs.values()))


def _stalled_pct(run: Run) -> float | None:
    """Return the share of layers that stall, in %."""
    steps = layer_steps(run)
    return None if steps is None else steps.stalled_pct


def _log10(value: float | None) -> float | None:
    """Return the logarithm, limited to the range of double precision: a gradient may be 0, or not finite."""
    return None if value is None else math.log10(min(max(value, 1e-300), 1e300))
