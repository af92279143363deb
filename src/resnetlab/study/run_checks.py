"""One run judged by itself: signs that point somewhere. A verdict takes several runs; see `verdict`. No torch here."""

from dataclasses import dataclass

from resnetlab.study.results import Run
from resnetlab.study.rules import (
    DEAD_PCT,
    EXPLODED,
    FALLING_SHARE,
    FITTED_PCT,
    LEARNT_SHARE,
    LONG_STEP,
    LOSS_RISE,
    STILL,
    UNFINISHED_PCT,
    WIDE_GAP_POINTS,
)
from resnetlab.study.run_metrics import (
    chance_error_pct,
    dead_relus_pct,
    first_gradient,
    first_update,
    gap,
    late_fall,
    loss_rise,
    movement,
    train_error,
)
from resnetlab.study.seed_stats import two_figures


@dataclass(frozen=True)
class RunIssue:
    """What one run shows."""

    kind: str
    """A failing `kind` of `rules.RULES`, `dead ReLUs`, `not learnt`, or how the run ended if it is not done."""
    sentence: str


def has_learnt(run: Run) -> bool:
    """Say whether a run ended with a training error well below that of guessing."""
    error = train_error(run)
    return error is not None and error < LEARNT_SHARE * chance_error_pct(run)


def has_sound_gradients(run: Run) -> bool | None:
    """Say whether gradients neither vanish nor explode; `None` where the record has no signals."""
    moved, first = movement(run), first_gradient(run)
    return None if moved is None or first is None else moved >= STILL and first < EXPLODED


def is_unstable(run: Run) -> bool:
    """Say whether steps were too long: NaN, a first step that is much of the weights, or a loss that rose."""
    update, rise = first_update(run), loss_rise(run)
    return run.status == "diverged" or (update or 0) >= LONG_STEP or (rise or 0) >= LOSS_RISE


def has_fitted(run: Run) -> bool:
    """Say whether the training set is learnt by heart."""
    error = train_error(run)
    return error is not None and error <= FITTED_PCT


def is_unfinished(run: Run) -> bool:
    """Say whether a run ended while it was still learning."""
    error, fall = train_error(run), late_fall(run)
    return error is not None and error > UNFINISHED_PCT and fall is not None and fall >= FALLING_SHARE


def run_issues(run: Run) -> list[RunIssue]:
    """Return every sign that a run shows; none is good news, as far as one run can tell."""
    if run.status in ("unfinished", "failed"):
        return [
            RunIssue(
                run.status, str(run.result.get("error", "it has no result yet; its signs can be told when it has"))
            )
        ]
    found = [RunIssue("diverged", str(run.result.get("error")))] if run.status == "diverged" else []
    first, moved, dead, width = first_gradient(run), movement(run), dead_relus_pct(run), gap(run)
    learnt = has_learnt(run)
    if not learnt and moved is not None and moved < STILL:
        found.append(
            RunIssue(
                "vanishing",
                f"the median layer could move by {two_figures(moved)} of its own length in the "
                f"whole run, less than {100 * STILL:g} %, and the network has not learnt",
            )
        )
    if not learnt and first is not None and first >= EXPLODED:
        found.append(
            RunIssue(
                "exploding",
                f"at the first sample the gradient of the median layer is {two_figures(first)} "
                f"times its weights, above {EXPLODED:g}, and the network has not learnt",
            )
        )
    elif not learnt and is_unstable(run):
        found.append(RunIssue("learning rate too high", _shaken(run)))
    if has_fitted(run) and width is not None and width >= WIDE_GAP_POINTS:
        found.append(
            RunIssue(
                "overfitting",
                f"the training set is fitted, and the error on unseen images {width:.1f} "
                f"points higher, above {WIDE_GAP_POINTS:g}",
            )
        )
    if is_unfinished(run):
        found.append(
            RunIssue(
                "under-trained",
                f"the training error is {train_error(run):.1f} %, and the running loss "
                f"fell by {100 * (late_fall(run) or 0):.0f} % in the last quarter",
            )
        )
    if dead is not None and dead >= DEAD_PCT:
        found.append(
            RunIssue(
                "dead ReLUs",
                f"{dead:.0f} % of a layer's channels, on average, are zero on every image, above {DEAD_PCT:g}",
            )
        )
    error = train_error(run)
    if not found and not learnt and error is not None:
        found.append(
            RunIssue(
                "not learnt",
                f"the training error, {error:.1f} %, is more than half that of guessing "
                f"({chance_error_pct(run):.1f} %), and no rule for a single run says why",
            )
        )
    return found


def _shaken(run: Run) -> str:
    update, rise = first_update(run), loss_rise(run)
    words = [
        "" if update is None else f"the first step is {two_figures(update)} of the weights in the median layer",
        "" if rise is None else f"the running loss rises to {two_figures(rise)} times the first",
    ]
    return f"{' and '.join(filter(None, words)) or 'it ended in NaN'}, and the network has not learnt"
