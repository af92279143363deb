"""What one run's record says of its health: numbers, not yet a judgement. No torch here."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from resnetlab.study.results import Run


def median_gradient(signal: dict[str, Any]) -> float:
    """Return the gradient of the median layer over its weights, at one step; infinite where one is not finite."""
    ratios = gradients(signal)
    return math.inf if ratios is None else statistics.median(ratios)


def gradients(signal: dict[str, Any]) -> list[float] | None:
    """Return each layer's gradient over its weights, but for layers whose weights are all 0, as deepening leaves them.

    `None` where a gradient is not finite.
    """
    layers = list(zip(signal["grad_norm"], signal["grad_to_weight"], strict=True))
    ratios = [ratio for _, ratio in layers if ratio is not None]
    return ratios if ratios and all(norm is not None for norm, _ in layers) else None


def first_gradient(run: Run) -> float | None:
    """Return `median_gradient` at the first step, where initialisation alone decides; `None` without signals."""
    return median_gradient(run.signals[0]) if run.signals else None


def train_error(run: Run) -> float | None:
    """Return the final training error, in %, also of a model file; `None` for a run that did not finish."""
    return run.result.get("train_error_pct") if run.status in ("done", "measured") else None


def steepest_gradient(run: Run) -> float | None:
    """Return the largest gradient over weights of any layer at the first step; `None` without signals."""
    if not run.signals:
        return None
    ratios = gradients(run.signals[0])
    return math.inf if ratios is None else max(ratios)


def movement(run: Run) -> float | None:
    """Return how far the median layer could move in the whole run, in units of its own length; `None` without signals.

    The largest lr x gradient / weights that was heard, times the steps, and times 1 / (1 - momentum): what momentum
    makes of a gradient that keeps its direction. An upper bound, so that what is below a threshold surely is.
    """
    if not run.signals or total_steps(run) == 0:  # a model file was measured, and no step is known
        return None
    largest = max(signal["lr"] * median_gradient(signal) for signal in run.signals)
    return largest * total_steps(run) / (1 - run.config.recipe.momentum)


def first_update(run: Run) -> float | None:
    """Return the length of the first step over that of the weights, in the median layer; `None` without signals."""
    return run.signals[0]["lr"] * median_gradient(run.signals[0]) if run.signals else None


def total_steps(run: Run) -> int:
    """Return the steps the run took, as far as its record tells."""
    told = [run.result.get("steps"), *(epoch["step"] for epoch in run.epochs), *(s["step"] for s in run.signals)]
    return max((step for step in told if step is not None), default=0)


def chance_error_pct(run: Run) -> float:
    """Return the error of guessing among equally frequent classes, in %."""
    return 100 * (1 - 1 / len(run.start["data"]["classes"])) if "data" in run.start else 90.0


def loss_rise(run: Run) -> float | None:
    """Return the highest running loss over that of the first step; `None` where the record lacks either."""
    losses = [loss for epoch in run.epochs for loss in epoch["curve"]["loss"] if loss is not None]
    first = run.signals[0]["loss"] if run.signals else None
    return max(losses) / first if losses and first else None


def late_fall(run: Run) -> float | None:
    """Return by what share the running loss fell from the third quarter of the run to the last; `None` if too short."""
    losses = [loss for epoch in run.epochs for loss in epoch["curve"]["loss"] if loss is not None]
    quarter = len(losses) // 4
    if quarter == 0:
        return None
    third, last = statistics.fmean(losses[-2 * quarter : -quarter]), statistics.fmean(losses[-quarter:])
    return 1 - last / third if third > 0 else 0.0  # a set that is fitted may have a loss of 0


def gap(run: Run) -> float | None:
    """Return the points by which the error on unseen images is above the training error; `None` if unknown."""
    seen, unseen = run.result.get("train_error_pct"), unseen_error_pct(run)
    return None if seen is None or unseen is None else unseen - seen


def unseen_error_pct(run: Run) -> float | None:
    """Return the test error, in %, or the validation error where there is no test split."""
    test = run.result.get("test_error_pct")
    return run.result.get("val_error_pct") if test is None else test


def dead_relus_pct(run: Run) -> float | None:
    """Return the share of dead ReLUs at the last sample, in %, over all layers; `None` without signals."""
    return mean_of(run.signals[-1]["dead_relu_pct"]) if run.signals else None


def residual_ratio(run: Run) -> float | None:
    """Return ||F(x)|| over the norm of what the shortcut adds, mean over blocks, at the last sample; else `None`."""
    return mean_of(run.signals[-1]["residual_ratio"]) if run.signals else None


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are there."""
    there: Sequence[float] = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def first_step_at(run: Run, error_pct: float) -> int | None:
    """Return the first recorded step whose running training error is at most `error_pct`, or `None` if none is."""
    return next((step for step, error in zip(*run.curve(), strict=True) if error <= error_pct), None)
