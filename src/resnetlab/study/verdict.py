"""From numbers to plain sentences: what is wrong with depth, if anything, and how sure the seeds let one be. No torch.

Each rule of `rules.py` is a function here that takes a group of runs and gives a sentence with its numbers where the
rule holds, or `None`. Degradation, vanishing, exploding and overfitting rest on a contrast of labels (depth, number of
images), so that runs with shuffled labels do not give them.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from resnetlab.study.paired_comparison import PairedComparison, RunGroup, compare_pairs, group_runs
from resnetlab.study.results import Run
from resnetlab.study.rules import (
    EXPLODED,
    FITTED_PCT,
    LEAST_SEEDS,
    OVERFITTED_POINTS,
    STILL,
    UNFINISHED_PCT,
    WORSE_POINTS,
)
from resnetlab.study.run_checks import (
    has_fitted,
    has_learnt,
    has_sound_gradients,
    is_unfinished,
    is_unstable,
    run_issues,
)
from resnetlab.study.run_metrics import (
    first_gradient,
    first_update,
    gap,
    late_fall,
    loss_rise,
    movement,
    steepest_gradient,
    train_error,
    unseen_error_pct,
)
from resnetlab.study.seed_stats import format_range

Side = Mapping[int, Run]
"""Seed to run: the networks of one depth."""


@dataclass(frozen=True)
class Verdict:
    """One verdict on one arm and data set, in words, with the numbers that it rests on."""

    data: str
    arm: str
    kind: str
    """A `kind` of `rules.RULES`."""
    sentence: str


def verdicts(runs: Sequence[Run]) -> list[Verdict]:
    """Judge every arm on every data set: all failing kinds that hold; else `healthy` or `not enough evidence`."""
    found = []
    for group in group_runs(runs):
        said = {kind: sentence for kind, rule in JUDGES.items() if (sentence := rule(group))}
        if not said:
            healthy = _healthy(group)
            said = {"healthy": healthy} if healthy else {"not enough evidence": _missing(group) + _signs(group)}
        found += [Verdict(group.data, group.arm, kind, sentence) for kind, sentence in said.items()]
    return found


def _degradation(group: RunGroup) -> str | None:
    worse = _worse(group)
    ends = group.ends()
    if worse is None or ends is None or not all(has_sound_gradients(ends[1][seed]) for seed in worse.points):
        return None
    deep = [ends[1][seed] for seed in worse.points]
    return (
        f"{_effect(group, worse)}. The deeper networks fit their own training set worse, in every seed, so it is not "
        "overfitting; by the rules of this report their gradients neither vanish nor explode (at the first step "
        f"{format_range(map(first_gradient, deep))} of the weights in the median layer, {format_range(map(steepest_gradient, deep))} "
        f"in the steepest): it is optimisation that fails.{_far_from_done(ends[0])}"
    )


def _far_from_done(shallow: Side) -> str:
    """Return a caveat where even the shallow networks are far from fitting their training set."""
    errors = [error for run in shallow.values() if (error := train_error(run)) is not None]
    if statistics.fmean(errors) <= UNFINISHED_PCT:
        return ""
    return (
        f" {_name(shallow)} has not fitted it either ({format_range(errors)} %), so more steps may tell another story."
    )


def _vanishing(group: RunGroup) -> str | None:
    sides = _failing_side(group, lambda run: (moved := movement(run)) is not None and moved < STILL)
    difference = sides and compare_pairs(sides[1], sides[0], lambda run: _log10(movement(run)))
    if not sides or not difference or not difference.is_clear:
        return None
    shallow, deep = sides
    return (
        f"{_name(deep)} has not learnt (training error {format_range(map(train_error, deep.values()))} %) and hardly moved: "
        f"its median layer could go {format_range(map(movement, deep.values()))} of its own length in the whole run, less "
        f"than {100 * STILL:g} %, because its gradients are so small; {_name(shallow)}, with the same learning rate, "
        f"{format_range(map(movement, shallow.values()))}, and learns. So in each of {len(difference.points)} seeds, on "
        f"average {difference.mean:.1f} powers of ten apart (95 % interval {difference.interval_text})."
    )


def _exploding(group: RunGroup) -> str | None:
    sides = _failing_side(group, lambda run: (first := first_gradient(run)) is not None and first >= EXPLODED)
    difference = sides and compare_pairs(sides[0], sides[1], lambda run: _log10(first_gradient(run)))
    if not sides or not difference or not difference.is_clear:
        return None
    shallow, deep = sides
    num_diverged = sum(run.status == "diverged" for run in deep.values())
    return (
        f"{_name(deep)} does not learn ({num_diverged} of {len(deep)} runs end in NaN): at the first step the gradient "
        f"of its median layer is {format_range(map(first_gradient, deep.values()))} times its weights, and "
        f"{format_range(map(first_gradient, shallow.values()))} times in {_name(shallow)}, which learns. So in each of "
        f"{len(difference.points)} seeds, on average {difference.mean:.1f} powers of ten apart (95 % interval "
        f"{difference.interval_text})."
    )


def _lr_too_high(group: RunGroup) -> str | None:
    size = group.sizes[-1]
    deep = group.at(group.depths(size)[-1], size)
    sound_at_start = all((first := first_gradient(run)) is not None and first < EXPLODED for run in deep.values())
    if len(deep) < LEAST_SEEDS or not sound_at_start or any(map(has_learnt, deep.values())):
        return None
    if not all(map(is_unstable, deep.values())):
        return None
    num_diverged = sum(run.status == "diverged" for run in deep.values())
    lr = next(iter(deep.values())).config.recipe.lr
    return (
        f"{_name(deep)} does not learn in any of {len(deep)} seeds ({num_diverged} end in NaN) although its gradients "
        f"are sound at the start ({format_range(map(first_gradient, deep.values()))} of the weights): with lr {lr:g} the "
        f"first step is {format_range(map(first_update, deep.values()))} of the weights, and the highest running loss "
        f"{format_range(map(loss_rise, deep.values()))} times the first. Try lr {lr / 10:g}."
    )


def _overfitting(group: RunGroup) -> str | None:
    return _overfitting_with_fewer_images(group) or _overfitting_with_depth(group)


def _overfitting_with_fewer_images(group: RunGroup) -> str | None:
    """Look at every depth: is the gap wider with the fewest images than with the most?"""
    few, many = group.sizes[0], group.sizes[-1]
    depths = [depth for depth in group.depths(few) if few != many and depth in group.depths(many)]
    sentences = []
    for depth in depths:
        small, large = group.at(depth, few), group.at(depth, many)
        wider = compare_pairs(large, small, gap)
        if not wider or not wider.is_clear or wider.mean < OVERFITTED_POINTS or not _fits(small):
            return None
        sentences.append(
            f"{_name(small)} fits the training set ({format_range(map(train_error, small.values()))} %) and errs by "
            f"{format_range(map(gap, small.values()))} points more on unseen images; trained on "
            f"{'all' if many is None else format(many, ',')} images, by {format_range(map(gap, large.values()))}. The gap is "
            f"{wider.mean:.1f} points wider on average over {len(wider.points)} seeds (95 % interval "
            f"{wider.interval_text})."
        )
    return " ".join(sentences) or None


def _overfitting_with_depth(group: RunGroup) -> str | None:
    """Look at every number of training images: do the deeper networks err more on unseen ones?"""
    sentences = []
    for size in group.sizes:
        ends = group.ends(size)
        worse = ends and compare_pairs(*ends, unseen_error_pct)
        if not ends or not worse or not worse.is_clear or worse.mean < OVERFITTED_POINTS or not all(map(_fits, ends)):
            return None
        sentences.append(
            f"both {_name(ends[0])} and {_name(ends[1])} fit the training set (at most {FITTED_PCT:g} %), yet the "
            f"deeper errs by {worse.mean:.1f} points more on unseen images on average over {len(worse.points)} seeds "
            f"(95 % interval {worse.interval_text})."
        )
    return " ".join(sentences)


def _under_trained(group: RunGroup) -> str | None:
    size = group.sizes[-1]
    runs = [run for run in group.runs if run.train_images == size]
    if len({run.seed for run in runs}) < LEAST_SEEDS or not all(map(is_unfinished, runs)):
        return None
    return (
        f"all {len(runs)} runs end with {format_range(map(train_error, runs))} % training error while their running loss "
        f"still falls, by {format_range(100 * (late_fall(run) or 0) for run in runs)} % in the last quarter; train longer."
    )


JUDGES: dict[str, Callable[[RunGroup], str | None]] = {
    "degradation": _degradation,
    "vanishing": _vanishing,
    "exploding": _exploding,
    "learning rate too high": _lr_too_high,
    "overfitting": _overfitting,
    "under-trained": _under_trained,
}
"""Failing kind to the function that looks for it."""


def _healthy(group: RunGroup) -> str | None:
    effect, ends = _main_effect(group), group.ends()
    if effect is None or ends is None or effect.interval is None or effect.interval[1] >= WORSE_POINTS:
        return None
    deep = [ends[1][seed] for seed in effect.points]
    if not all(map(has_learnt, deep)) or not all(has_sound_gradients(run) for run in deep):
        return None
    better = " Deeper is better." if effect.interval[1] < 0 else ""
    return f"{_effect(group, effect)}; {WORSE_POINTS:g} points or more are ruled out, and gradients are sound.{better}"


def _missing(group: RunGroup) -> str:
    """Say what a verdict would have needed."""
    effect, ends = _main_effect(group), group.ends()
    if ends is None:
        return f"there are runs of one depth only, {group.runs[0].network}; name another with --depths."
    if effect is None:
        return f"{_name(ends[0])} and {_name(ends[1])} have no seed in common that finished."
    basis = _effect(group, effect)
    if effect.interval is None:
        return f"{basis}, from one seed; use --seeds 3 or more."
    deep = [ends[1][seed] for seed in effect.points]
    if any(has_sound_gradients(run) is None for run in deep):
        return f"{basis}, but no signals were recorded, which would tell whether gradients vanish or explode."
    if effect.interval[1] < WORSE_POINTS and not all(map(has_learnt, deep)):
        errors = format_range(map(train_error, deep))
        return f"{basis}, but the deeper networks have not learnt either (training error {errors} %)."
    return f"{basis}, which leaves more than one reading open."


def _signs(group: RunGroup) -> str:
    """Say which signs single runs show: no evidence of what depth does, but where to look."""
    counts = Counter(symptom.kind for run in group.runs for symptom in run_issues(run))
    words = [f"{kind} ({count} of {len(group.runs)})" for kind, count in counts.most_common()]
    return f" Single runs show signs of: {', '.join(words)}." if words else ""


def _main_effect(group: RunGroup) -> PairedComparison | None:
    ends = group.ends()
    return ends and compare_pairs(*ends, train_error)


def _worse(group: RunGroup) -> PairedComparison | None:
    """Return the effect of depth on training error where it is clear and large enough."""
    effect = _main_effect(group)
    return effect if effect and effect.is_clear and effect.mean >= WORSE_POINTS else None


def _failing_side(group: RunGroup, fails: Callable[[Run], bool]) -> tuple[Side, Side] | None:
    """Return the ends where in every seed the deep network fails and has not learnt, and the shallow one does neither.

    That is the contrast of vanishing and exploding: what all runs do alike says nothing of depth.
    """
    ends = group.ends()
    seeds = ends[0].keys() & ends[1].keys() if ends else set()
    if not ends or len(seeds) < LEAST_SEEDS:
        return None
    shallow, deep = ({seed: side[seed] for seed in seeds} for side in ends)
    fails_deep = all(fails(run) and not has_learnt(run) for run in deep.values())
    sound = all(has_sound_gradients(run) and has_learnt(run) for run in shallow.values())
    return (shallow, deep) if fails_deep and sound else None


def _fits(side: Side) -> bool:
    return all(map(has_fitted, side.values()))


def _effect(group: RunGroup, effect: PairedComparison) -> str:
    ends = group.ends()
    assert ends is not None  # an effect has two ends
    over = f"on average over {len(effect.points)} seeds (signs {effect.signs}; 95 % interval {effect.interval_text})"
    return (
        f"{_name(ends[1])} ends {abs(effect.mean):.1f} points of training error "
        f"{'above' if effect.mean > 0 else 'below'} {_name(ends[0])}" + ("" if effect.interval is None else f" {over}")
    )


def _name(side: Side) -> str:
    return next(iter(side.values())).network


def _log10(value: float | None) -> float | None:
    """Return the logarithm, within the range of double precision: a gradient may be 0, or not finite."""
    return None if value is None else math.log10(min(max(value, 1e-300), 1e300))
