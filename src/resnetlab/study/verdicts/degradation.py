"""The detector of degradation: a deeper network that fits its own training set worse, with nothing else to explain it.

Long steps at random weights can explain it: they overwrite the first layers of a deep plain network. The study's
control arm decides, which trains the same networks with a limit on the step of each layer.
"""

from resnetlab.study.results import Run
from resnetlab.study.run_metrics import train_error
from resnetlab.study.statistics.paired_comparison import DepthPair, RunGroup, RunsBySeed, compare_errors
from resnetlab.study.statistics.seed_stats import format_range
from resnetlab.study.verdicts.depth_result import DepthResult, main_depth_result, unlearnt_shallower
from resnetlab.study.verdicts.layer_steps import layer_steps
from resnetlab.study.verdicts.run_checks import has_learnt
from resnetlab.study.verdicts.sentences import gradients_text, network_name

MEAN_FIELD = (
    "Yang et al. (2019, A mean field theory of batch normalization) predict such gradients at random weights for plain "
    "networks with batch normalisation; the paper (section 4.1) reports sound ones"
)


def detect_degradation(group: RunGroup) -> str | None:
    """Return a sentence if the rule of degradation holds."""
    result = main_depth_result(group)
    if result is None or not result.is_worse or result.is_too_short or result.deep_is_sound is None:
        return None
    if unlearnt_shallower(group) is not None:
        return None
    if result.deep_is_sound:
        gradients = f"Gradients are sound in every layer: {gradients_text(_deep_runs(result))}."
    elif control_fails_too(group):
        gradients = _control_text(group, result)
    else:
        return None
    return (
        f"{result.text}. The deeper networks fit their own training set worse, in every seed, so it is not "
        f"overfitting. {gradients} It is optimisation that fails."
    )


def control_fails_too(group: RunGroup) -> bool:
    """Return whether the control arm, at the same depths and with sound gradients, degrades as well."""
    result = _control_result(group)
    return result is not None and result.is_worse and result.deep_is_sound is True and not result.is_too_short


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
    if not control_cures(group) or not _overwrites_layers(result):
        return None
    return (
        f"{result.text}: {gradients_text(_deep_runs(result))}. With the step of each layer limited it trains: "
        f"{control.text}. So the long steps are the cause, not depth itself."
    )


def _overwrites_layers(result: DepthResult) -> bool:
    """Return whether a step overwrites a layer in every deep run: layers may also stall without a long step."""
    return all((steps := layer_steps(run)) is not None and steps.overwritten for run in _deep_runs(result))


def limit_text(runs: RunsBySeed) -> str:
    """Return the limit on the step of each layer, as a share of its weights: `5 %`."""
    return f"{100 * (next(iter(runs.values())).config.recipe.max_update or 0):g} %"


def _control_text(group: RunGroup, result: DepthResult) -> str:
    control = _control_result(group)
    assert control is not None
    pair = control.pair
    shallow, deep = ([runs[seed] for seed in control.effect.points] for runs in pair)
    errors = [format_range(map(train_error, runs)) for runs in (deep, shallow)]
    return (
        f"Gradients are not sound: {gradients_text(_deep_runs(result))}. {MEAN_FIELD}. They are not the only cause: "
        f"with the step of each layer limited to {limit_text(pair.deep)} of its weights no layer is overwritten, "
        f"few stall, and {network_name(pair.deep)} still ends at {errors[0]} % training error against "
        f"{errors[1]} % of {network_name(pair.shallow)}: {control.effect.mean:.1f} of the {result.effect.mean:.1f} "
        f"points remain (95 % interval {control.effect.interval_text})."
    )


def _control_result(group: RunGroup) -> DepthResult | None:
    """Return the control arm's result at the depths of the group's main result; `None` if it lacks one of them."""
    main, control = main_depth_result(group), group.control
    if main is None or control is None:
        return None
    shallow, deep = (next(iter(runs.values())).depth for runs in main.pair)
    size = group.train_sizes[-1]
    pair = DepthPair(control.by_seed(shallow, size), control.by_seed(deep, size))
    effect = compare_errors(*pair, train_error)
    return None if effect is None else DepthResult(pair, effect)


def _deep_runs(result: DepthResult) -> list[Run]:
    return [result.pair.deep[seed] for seed in result.effect.points]
