"""Checks of a single run: issues that one record can point to. Verdicts need several runs; see `verdict`."""

from collections.abc import Callable
from dataclasses import dataclass

from resnetlab.study.results import Run
from resnetlab.study.run_metrics import (
    dead_relus_pct,
    first_gradient,
    first_update,
    generalisation_gap,
    guessing_error_pct,
    loss_rise,
    train_error,
)
from resnetlab.study.statistics.seed_stats import two_figures
from resnetlab.study.verdicts.layer_steps import layer_steps
from resnetlab.study.verdicts.rules import (
    DEAD_RELU_PCT,
    EXPLODING_GRADIENT,
    FALLING_SHARE,
    FITTED_PCT,
    LARGE_UPDATE,
    LEARNT_SHARE,
    LOSS_RISE,
    MIN_MOVEMENT,
    UNDER_TRAINED_PCT,
    VANISHING_SHARE,
    WIDE_GAP_POINTS,
)
from resnetlab.study.verdicts.training_progress import loss_fall_before_drop


@dataclass(frozen=True)
class RunIssue:
    """One issue of a single run."""

    kind: str
    """A failing `kind` of `rules.RULES`, `dead ReLUs`, `not learnt`, or the status of a run that is not done."""
    sentence: str


def has_diverged(run: Run) -> bool:
    """Return whether a run ended in NaN."""
    return run.status == "diverged"


def has_learnt(run: Run) -> bool:
    """Return whether a run ended with a training error well below that of guessing."""
    error = train_error(run)
    return error is not None and error < LEARNT_SHARE * guessing_error_pct(run)


def has_sound_gradients(run: Run) -> bool | None:
    """Return whether gradients are sound in every layer, over the whole run; `None` without layer statistics.

    The gradient of the median layer at the first step is below `EXPLODING_GRADIENT`, no step overwrites a layer, and
    few layers stall (`layer_steps`).
    """
    steps, first = layer_steps(run), first_gradient(run)
    return None if steps is None or first is None else steps.is_sound and first < EXPLODING_GRADIENT


def has_vanishing_gradients(run: Run) -> bool:
    """Return whether half of the layers stall in a finished run, and no step overwrites one (they stall after that)."""
    steps = layer_steps(run)
    return (
        steps is not None
        and run.status == "done"
        and not steps.overwritten
        and len(steps.stalled) >= VANISHING_SHARE * steps.num_layers
    )


def has_exploding_gradients(run: Run) -> bool:
    """Return whether the gradient of the median layer explodes at the first step."""
    first = first_gradient(run)
    return first is not None and first >= EXPLODING_GRADIENT


def is_unstable(run: Run) -> bool:
    """Return whether steps were too large: the run diverged, its first update was large, or its loss rose."""
    update, rise = first_update(run), loss_rise(run)
    return run.status == "diverged" or (update or 0) >= LARGE_UPDATE or (rise or 0) >= LOSS_RISE


def is_rising(run: Run) -> bool:
    """Return whether the run diverged, or its running loss rose to `LOSS_RISE` times the first."""
    return run.status == "diverged" or (loss_rise(run) or 0) >= LOSS_RISE


def has_fitted(run: Run) -> bool:
    """Return whether the run fits its training set."""
    error = train_error(run)
    return error is not None and error <= FITTED_PCT


def is_under_trained(run: Run) -> bool:
    """Return whether the run ended with a high training error although its loss fell until the rate was lowered."""
    error = train_error(run)
    return error is not None and error > UNDER_TRAINED_PCT and is_improving(run) is True


def is_improving(run: Run) -> bool | None:
    """Return whether the loss was still falling before the learning rate was lowered; `None` if it is unknown."""
    fall = loss_fall_before_drop(run)
    return None if fall is None else fall >= FALLING_SHARE


def run_issues(run: Run) -> list[RunIssue]:
    """Return every issue that the record of one run points to; an empty list if there is none."""
    if run.status in ("unfinished", "failed"):
        reason = run.result.get("error", "it has no result yet; the checks need a run that has ended")
        return [RunIssue(run.status, str(reason))]
    issues = [RunIssue("diverged", str(run.result.get("error")))] if run.status == "diverged" else []
    issues += [RunIssue(kind, sentence) for kind, check in CHECKS.items() if (sentence := check(run))]
    error = train_error(run)
    if not issues and not has_learnt(run) and error is not None:
        sentence = (
            f"the training error, {error:.1f} %, is more than half that of guessing "
            f"({guessing_error_pct(run):.1f} %), and no check of a single run explains it"
        )
        issues.append(RunIssue("not learnt", sentence))
    return issues


def _check_vanishing(run: Run) -> str | None:
    steps = layer_steps(run)
    if has_learnt(run) or steps is None or not has_vanishing_gradients(run):
        return None
    return (
        f"{len(steps.stalled)} of {steps.num_layers} layers hardly moved for a quarter of the run or longer (at their "
        f"gradients, by less than {100 * MIN_MOVEMENT:g} % of their own length in a whole run), and the network has "
        "not learnt"
    )


def _check_exploding(run: Run) -> str | None:
    steps, first = layer_steps(run), first_gradient(run)
    if has_learnt(run) or first is None:
        return None
    if has_exploding_gradients(run):
        return (
            f"at the first sample the gradient of the median layer is {two_figures(first)} times its weights, above "
            f"{EXPLODING_GRADIENT:g}, and the network has not learnt"
        )
    if steps is None or not steps.overwritten:
        return None
    return (
        f"{len(steps.overwritten)} of {steps.num_layers} layers took a step as long as their weights or longer (the "
        f"longest, {two_figures(steps.longest)} times its weights: {steps.longest_layer} at step "
        f"{steps.longest_step}), and the network has not learnt"
    )


def _check_lr_too_high(run: Run) -> str | None:
    if has_learnt(run) or _check_exploding(run) or not is_unstable(run):
        return None
    update, rise = first_update(run), loss_rise(run)
    causes = [
        "" if update is None else f"the first step is {two_figures(update)} of the weights in the median layer",
        "" if rise is None else f"the running loss rises to {two_figures(rise)} times the first",
    ]
    return f"{' and '.join(filter(None, causes)) or 'it ended in NaN'}, and the network has not learnt"


def _check_overfitting(run: Run) -> str | None:
    gap = generalisation_gap(run)
    if not has_fitted(run) or gap is None or gap < WIDE_GAP_POINTS:
        return None
    return (
        f"the training set is fitted, and the error on unseen images is {gap:.1f} points higher, above "
        f"{WIDE_GAP_POINTS:g}"
    )


def _check_under_trained(run: Run) -> str | None:
    if not is_under_trained(run):
        return None
    return (
        f"the training error is {train_error(run):.1f} %, and before the learning rate was lowered the running loss "
        f"still fell, by {100 * (loss_fall_before_drop(run) or 0):.0f} % over the last quarter of those steps"
    )


def _check_dead_relus(run: Run) -> str | None:
    dead = dead_relus_pct(run)
    if dead is None or dead < DEAD_RELU_PCT:
        return None
    return f"{dead:.0f} % of a layer's channels, on average, are zero on every image, above {DEAD_RELU_PCT:g}"


CHECKS: dict[str, Callable[[Run], str | None]] = {
    "vanishing": _check_vanishing,
    "exploding": _check_exploding,
    "learning rate too high": _check_lr_too_high,
    "overfitting": _check_overfitting,
    "under-trained": _check_under_trained,
    "dead ReLUs": _check_dead_relus,
}
"""Kind of issue to the function that returns a sentence if a run has it."""
