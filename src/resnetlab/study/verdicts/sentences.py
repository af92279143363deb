"""Parts of the verdicts' sentences: names of networks, differences with their intervals, and what gradients did."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from resnetlab.study.results import Run
from resnetlab.study.run_metrics import first_gradient
from resnetlab.study.statistics.paired_comparison import DepthPair, PairedComparison, RunsBySeed
from resnetlab.study.statistics.seed_stats import format_range, two_figures
from resnetlab.study.verdicts.layer_steps import LayerSteps, layer_steps
from resnetlab.study.verdicts.rules import MIN_MOVEMENT


def effect_text(pair: DepthPair, effect: PairedComparison, num_candidates: int = 1) -> str:
    """Return the difference between two depths in words, with its interval or the reason why there is none.

    Args:
        pair: The networks.
        effect: The difference of their training errors.
        num_candidates: Shallower depths of which the shallow one has the lowest error.
    """
    text = (
        f"{network_name(pair.deep)} ends {abs(effect.mean):.1f} points of training error "
        f"{'above' if effect.mean > 0 else 'below'} {network_name(pair.shallow)}"
    )
    if num_candidates > 1:
        text += f" (the best of {num_candidates} shallower depths)"
    if effect.num_diverged:
        return f"{text} on average over {len(effect.points)} seeds ({effect.interval_text} and counts as 100 %)"
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


def diverged_text(runs: RunsBySeed) -> str:
    """Return how many runs ended in NaN: `2 of 3 runs end in NaN`."""
    return f"{sum(run.status == 'diverged' for run in runs.values())} of {len(runs)} runs end in NaN"


def orders_of_magnitude(difference: PairedComparison, values: Iterable[float | None]) -> str:
    """Return in words how far apart a gradient of two networks is, given all values of it.

    A gradient that is 0 or not finite has no logarithm; then no interval is given.
    """
    basis = f"This holds in each of {len(difference.points)} seeds"
    if any(value is None or not 0 < value < math.inf for value in values):
        return f"{basis}; not every gradient is a positive finite number, so there is no interval."
    return (
        f"{basis}; on average the two are {difference.mean:.1f} powers of ten apart (95 % interval "
        f"{difference.interval_text})."
    )


def gradients_text(runs: Sequence[Run]) -> str:
    """Return what the gradients of these runs did, over layers and over time; the runs have layer statistics."""
    steps = [found for run in runs if (found := layer_steps(run)) is not None]
    parts = [
        f"the gradient of the median layer is {metric_range(first_gradient, runs)} times its weights at the first step",
        _longest_step_text(steps),
    ]
    if any(taken.overwritten for taken in steps):
        parts.append(f"{_layers_text(steps, 'overwritten')} take a step as long as their weights or longer")
    if any(taken.stalled for taken in steps):
        parts.append(
            f"{_layers_text(steps, 'stalled')} then hardly move for a quarter of the run or longer (less than "
            f"{100 * MIN_MOVEMENT:g} % of their length, at the highest rate, in a whole run)"
        )
    return ", ".join(parts[:-1]) + f", and {parts[-1]}"


def _longest_step_text(steps: Sequence[LayerSteps]) -> str:
    layer = statistics.mode(taken.longest_layer for taken in steps)
    share = format_range(taken.longest for taken in steps)
    if all(taken.longest < 1 for taken in steps):
        share = f"{format_range(100 * taken.longest for taken in steps)} % of its weights"
    else:
        share = f"{share} times its weights"
    return f"the longest step of any layer ({layer}) is {share}"


def _layers_text(steps: Sequence[LayerSteps], kind: str) -> str:
    counts = sorted(len(getattr(taken, kind)) for taken in steps)
    count = two_figures(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    return f"{count} of {steps[0].num_layers} layers"
