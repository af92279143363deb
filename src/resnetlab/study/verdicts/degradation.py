"""The detector of degradation: a deeper network that fits its own training set worse, with nothing else to explain it.

Long steps at random weights can explain it: they overwrite the first layers of a deep plain network. The study's
control arm decides, which trains the same networks with a limit on the step of each layer.
"""

import statistics
from typing import NamedTuple

from resnetlab.study.results import Run
from resnetlab.study.run_metrics import train_error
from resnetlab.study.statistics.paired_comparison import (
    DepthExtremes,
    PairedComparison,
    RunGroup,
    RunsBySeed,
    compare_errors,
)
from resnetlab.study.statistics.seed_stats import format_range
from resnetlab.study.verdicts.rules import DEGRADATION_POINTS, UNDER_TRAINED_PCT, UNDER_WAY_SHARE
from resnetlab.study.verdicts.run_checks import has_learnt, has_sound_gradients, is_improving
from resnetlab.study.verdicts.sentences import effect_text, gradients_text, network_name
from resnetlab.study.verdicts.training_progress import loss_fall_before_drop

MEAN_FIELD = (
    "Yang et al. (2019, A mean field theory of batch normalization) predict such gradients at random weights for plain "
    "networks with batch normalisation; the paper (section 4.1) reports sound ones"
)


class DepthResult(NamedTuple):
    """Two depths of a group, and the difference of their training errors."""

    extremes: DepthExtremes
    effect: PairedComparison

    @property
    def is_worse(self) -> bool:
        """Whether the deep network clearly ends `DEGRADATION_POINTS` above the shallow one, which has learnt."""
        shallow = (self.extremes.shallow[seed] for seed in self.effect.points)
        return self.effect.is_clear and self.effect.mean >= DEGRADATION_POINTS and all(map(has_learnt, shallow))

    @property
    def is_as_good(self) -> bool:
        """Whether the interval rules out that the deep network ends `DEGRADATION_POINTS` above the shallow one."""
        return self.effect.interval is not None and self.effect.interval[1] < DEGRADATION_POINTS

    @property
    def deep_is_sound(self) -> bool | None:
        """Whether the gradients of every deep run are sound; `None` if a run lacks layer statistics."""
        sound = [has_sound_gradients(self.extremes.deep[seed]) for seed in self.effect.points]
        return None if None in sound else all(sound)


def main_depth_result(group: RunGroup) -> DepthResult | None:
    """Compare the training errors of the deepest and the shallowest networks, with the most images."""
    extremes = group.extremes()
    effect = extremes and compare_errors(*extremes, train_error)
    return DepthResult(extremes, effect) if extremes and effect else None


def is_too_short(extremes: DepthExtremes) -> bool:
    """Return whether longer training may change the comparison.

    Either the shallow networks have not fitted their training set, and some network was still improving when the
    learning rate was lowered (or the record is too short to tell). Or the deep networks have not fitted it, and were
    learning fast then.
    """
    return (
        _has_unfitted(extremes.shallow)
        and (any(is_improving(run) is not False for runs in extremes for run in runs.values()))
    ) or is_under_way(extremes.deep)


def is_under_way(runs: RunsBySeed) -> bool:
    """Return whether networks have not fitted their training set, and learnt fast until the rate was lowered."""
    falls = [fall for run in runs.values() if (fall := loss_fall_before_drop(run)) is not None]
    return _has_unfitted(runs) and bool(falls) and statistics.fmean(falls) >= UNDER_WAY_SHARE


def _has_unfitted(runs: RunsBySeed) -> bool:
    errors = [error for run in runs.values() if (error := train_error(run)) is not None]
    return bool(errors) and statistics.fmean(errors) > UNDER_TRAINED_PCT


def detect_degradation(group: RunGroup) -> str | None:
    """Return a sentence if the rule of degradation holds."""
    result = main_depth_result(group)
    if result is None or not result.is_worse or is_too_short(result.extremes) or result.deep_is_sound is None:
        return None
    if result.deep_is_sound:
        gradients = f"Gradients are sound in every layer: {gradients_text(_deep_runs(result))}."
    elif control_fails_too(group):
        gradients = _control_text(group, result)
    else:
        return None
    return (
        f"{effect_text(*result)}. The deeper networks fit their own training set worse, in every seed, so it is not "
        f"overfitting. {gradients} It is optimisation that fails."
    )


def control_fails_too(group: RunGroup) -> bool:
    """Return whether the control arm, at the same depths and with sound gradients, degrades as well."""
    result = _control_result(group)
    return result is not None and result.is_worse and result.deep_is_sound is True and not is_too_short(result.extremes)


def control_cures(group: RunGroup) -> bool:
    """Return whether the control arm, at the same depths, trains the deep networks as well as the shallow ones."""
    result = _control_result(group)
    return result is not None and result.is_as_good and all(map(has_learnt, _deep_runs(result)))


def detect_long_steps(group: RunGroup) -> str | None:
    """Return a sentence if the deep networks fail, steps overwrite their layers, and a limit on the steps cures it."""
    result = main_depth_result(group)
    control = _control_result(group)
    if result is None or control is None or not result.is_worse or result.deep_is_sound is not False:
        return None
    if not control_cures(group):
        return None
    return (
        f"{effect_text(*result)}: {gradients_text(_deep_runs(result))}. With the step of each layer limited it trains: "
        f"{effect_text(*control)}. So the long steps are the cause, not depth itself."
    )


def limit_text(runs: RunsBySeed) -> str:
    """Return the limit on the step of each layer, as a share of its weights: `5 %`."""
    return f"{100 * (next(iter(runs.values())).config.recipe.max_update or 0):g} %"


def _control_text(group: RunGroup, result: DepthResult) -> str:
    control = _control_result(group)
    assert control is not None
    extremes = control.extremes
    shallow, deep = ([runs[seed] for seed in control.effect.points] for runs in extremes)
    errors = [format_range(map(train_error, runs)) for runs in (deep, shallow)]
    return (
        f"Gradients are not sound: {gradients_text(_deep_runs(result))}. {MEAN_FIELD}. They are not the only cause: "
        f"with the step of each layer limited to {limit_text(extremes.deep)} of its weights no layer is overwritten, "
        f"few stall, and {network_name(extremes.deep)} still ends at {errors[0]} % training error against "
        f"{errors[1]} % of {network_name(extremes.shallow)}: {control.effect.mean:.1f} of the {result.effect.mean:.1f} "
        f"points remain (95 % interval {control.effect.interval_text})."
    )


def _control_result(group: RunGroup) -> DepthResult | None:
    """Return the control arm's result at the depths of the group's main result; `None` if it lacks one of them."""
    main, control = group.extremes(), group.control
    result = control and main_depth_result(control)
    if main is None or result is None:
        return None
    same = all(
        next(iter(ours.values())).depth == next(iter(theirs.values())).depth
        for ours, theirs in zip(main, result.extremes, strict=True)
    )
    return result if same else None


def _deep_runs(result: DepthResult) -> list[Run]:
    return [result.extremes.deep[seed] for seed in result.effect.points]
