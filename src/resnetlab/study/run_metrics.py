"""Metrics of one run, computed from its record: gradients, movement of layers, loss trends and errors."""

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from resnetlab.study.results import Run


def gradient_ratios(stats: dict[str, Any]) -> list[float] | None:
    """Return ||gradient|| / ||weights|| of each layer at one step.

    Layers whose weights are all 0, as deepening leaves them, are left out.

    Returns:
        The ratios, or `None` if a gradient is not finite.
    """
    layers = list(zip(stats["grad_norm"], stats["grad_to_weight"], strict=True))
    ratios = [ratio for _, ratio in layers if ratio is not None]
    return ratios if ratios and all(norm is not None for norm, _ in layers) else None


def median_gradient(stats: dict[str, Any]) -> float:
    """Return the median of `gradient_ratios` over layers; infinite if a gradient is not finite."""
    ratios = gradient_ratios(stats)
    return math.inf if ratios is None else statistics.median(ratios)


def first_gradient(run: Run) -> float | None:
    """Return `median_gradient` at the first step, where only initialisation matters.

    `None` without layer stats, or if layers are frozen there.
    """
    return median_gradient(run.layer_stats[0]) if run.layer_stats and not run.config.recipe.frozen_epochs else None


def worst_gradient(run: Run) -> float | None:
    """Return the largest `median_gradient` over the samples with a finite loss; `None` without layer stats."""
    values = [median_gradient(stats) for stats in run.layer_stats if stats["loss"] is not None]
    return max(values) if values else None


def steepest_gradient(run: Run) -> float | None:
    """Return the largest of `gradient_ratios` over layers at the first step; `None` without layer stats."""
    if not run.layer_stats:
        return None
    ratios = gradient_ratios(run.layer_stats[0])
    return math.inf if ratios is None else max(ratios)


def unknown_steps_reason(run: Run) -> str | None:
    """Return the setting by which a run's steps do not follow from its recorded gradients; `None` for plain SGD.

    Only of SGD a step is lr x gradient, summed with momentum. The gradients of a record are those before clipping, its
    learning rate is that of the head, and layers that are frozen have no gradient.
    """
    recipe = run.config.recipe
    if recipe.optimizer != "sgd":
        return f"optimizer {recipe.optimizer}"
    if recipe.clip_grad_norm is not None:
        return f"clip_grad_norm {recipe.clip_grad_norm:g}"
    if recipe.layer_decay < 1:
        return f"layer_decay {recipe.layer_decay:g}"
    return f"frozen_epochs {recipe.frozen_epochs}" if recipe.frozen_epochs else None


def movement(run: Run) -> float | None:
    """Return an upper bound on the movement of the median layer in the whole run, in units of its weights' norm.

    The bound is the largest recorded lr x gradient / weights, times the number of steps, times 1 / (1 - momentum).
    The last factor is the effect of momentum on a gradient of constant direction. Since it is an upper bound, a value
    below a threshold proves that the true movement is below it too.

    Returns:
        The bound, or `None` without layer stats or steps (a measured model file), or if gradients do not tell the steps
        (`unknown_steps_reason`).
    """
    num_steps = total_steps(run)
    if not run.layer_stats or num_steps == 0 or unknown_steps_reason(run):
        return None
    largest = max(stats["lr"] * median_gradient(stats) for stats in run.layer_stats)
    return largest * num_steps / (1 - run.config.recipe.momentum)


def first_update(run: Run) -> float | None:
    """Return ||first update|| / ||weights|| of the median layer; `None` if it is unknown, as for `movement`."""
    if not run.layer_stats or unknown_steps_reason(run):
        return None
    return run.layer_stats[0]["lr"] * median_gradient(run.layer_stats[0])


def total_steps(run: Run) -> int:
    """Return the number of steps that the record contains, 0 if none."""
    steps = [run.result.get("steps"), *(line["step"] for line in (*run.epochs, *run.layer_stats))]
    return max((step for step in steps if step is not None), default=0)


def train_error(run: Run) -> float | None:
    """Return the final training error, in %, of a finished run or a model file; otherwise `None`."""
    return run.result.get("train_error_pct") if run.status in ("done", "measured") else None


def epoch_selection(run: Run) -> str | None:
    """Return the setting by which validation images selected the epoch that a finished run was measured at.

    Then its training error is not that of the end of training, and says nothing about optimisation. `None` if the last
    epoch of the whole length was measured.
    """
    recipe, result = run.config.recipe, run.result
    if run.status != "done":
        return None
    if recipe.keep == "best" and (result.get("best_epoch") is None or result["best_epoch"] != result.get("epochs")):
        return "keep=best"
    if recipe.early_stop_epochs is not None and result.get("stopped_early", _ended_before_its_length(run)):
        return f"early_stop_epochs={recipe.early_stop_epochs}"
    return None


def _ended_before_its_length(run: Run) -> bool:
    """Return whether a run took fewer steps than its recipe has; records of older versions do not say it."""
    recipe = run.config.recipe
    planned = recipe.steps or (recipe.epochs * run.epochs[0]["step"] if run.epochs else 0)
    return total_steps(run) < planned


def unseen_error(run: Run) -> float | None:
    """Return the test error, in %, or the validation error if there is no test split; `None` if unknown."""
    test = run.result.get("test_error_pct")
    return run.result.get("val_error_pct") if test is None else test


def generalisation_gap(run: Run) -> float | None:
    """Return the error on unseen images minus the training error, in percentage points; `None` if unknown."""
    train, unseen = run.result.get("train_error_pct"), unseen_error(run)
    return None if train is None or unseen is None else unseen - train


def one_image_pct(run: Run, split: str) -> float:
    """Return the share of one image in `train`, `val` or `test`, in %; 0 if its size is not recorded."""
    count = run.start.get("data", {}).get(f"num_{split}")
    return 100 / count if count else 0.0


def _unseen_image_pct(run: Run) -> float:
    return one_image_pct(run, "val" if run.result.get("test_error_pct") is None else "test")


SMALLEST_STEP: dict[Callable[[Run], float | None], Callable[[Run], float]] = {
    train_error: lambda run: one_image_pct(run, "train"),
    unseen_error: _unseen_image_pct,
    generalisation_gap: lambda run: max(one_image_pct(run, "train"), _unseen_image_pct(run)),
}
"""Error to the smallest difference that two runs can show, in percentage points: one image."""


def guessing_error_pct(run: Run) -> float:
    """Return the training error of always predicting the most frequent class, in %, if the run has recorded it.

    If not, that of guessing among equally frequent classes; 90 if the classes are not recorded either.
    """
    if recorded := (run.result.get("chance") or {}).get("train"):
        return recorded["error_pct"]
    return 100 * (1 - 1 / len(run.start["data"]["classes"])) if "data" in run.start else 90.0


def loss_rise(run: Run) -> float | None:
    """Return the highest running loss over the loss of the first step; `None` if the record lacks either."""
    losses = run.losses()
    first = run.layer_stats[0]["loss"] if run.layer_stats else None
    return max(losses) / first if losses and first else None


def dead_relus_pct(run: Run) -> float | None:
    """Return the share of dead ReLUs at the last sample, in %, mean over layers; `None` without layer stats."""
    return _mean(run.layer_stats[-1]["dead_relu_pct"]) if run.layer_stats else None


def residual_ratio(run: Run) -> float | None:
    """Return ||F(x)|| / ||shortcut(x)|| at the last sample, mean over blocks; `None` if not recorded."""
    return _mean(run.layer_stats[-1]["residual_ratio"]) if run.layer_stats else None


def steps_to_error(run: Run, error_pct: float) -> int | None:
    """Return the first recorded step with a running training error of at most `error_pct`; `None` if none has."""
    return next((step for step, error in zip(*run.train_curve(), strict=True) if error <= error_pct), None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
