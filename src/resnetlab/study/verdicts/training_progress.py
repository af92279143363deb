"""Whether a run was still improving before its schedule lowered the learning rate.

At the end of a run a schedule hides it: after two divisions by 10 no loss falls any more, however short the run was.
"""

import statistics
from collections.abc import Sequence

from resnetlab.study.results import Run
from resnetlab.study.run_metrics import total_steps
from resnetlab.training.optimizers.lr_schedule import lr_at

HIGH_LR = 0.5
"""Share of the highest learning rate above which the rate counts as not lowered yet."""
LEAST_POINTS = 8
"""Fewest points of the training curve before the learning rate is lowered: two for each quarter."""


def loss_fall_before_drop(run: Run) -> float | None:
    """Return the relative fall of the running loss before the learning rate is lowered.

    The steps from the end of the warm-up to the first drop below half of the highest rate are divided into quarters;
    the fall is that of the mean loss from the third quarter to the fourth.

    Returns:
        A share: 0.1 for a fall by 10 %, negative for a rise; `None` if the record has too few points there.
    """
    steps = _steps_at_high_lr(run)
    points = [
        (step, loss)
        for epoch in run.epochs
        for step, loss in zip(epoch["curve"]["step"], epoch["curve"]["loss"], strict=True)
        if loss is not None and step in steps
    ]
    if len(points) < LEAST_POINTS:
        return None
    quarter = len(points) // 4
    third, last = (_mean_loss(points[-2 * quarter : -quarter]), _mean_loss(points[-quarter:]))
    return 1 - last / third if third > 0 else 0.0  # a fitted training set may have a loss of 0


def _steps_at_high_lr(run: Run) -> range:
    """Return the steps, counted from 1, at which the learning rate is high; for `plateau` whole epochs."""
    recipe, taken = run.config.recipe, total_steps(run)
    if recipe.schedule == "plateau":
        high = [e["step"] for e in run.epochs if e.get("lr") is not None and e["lr"] >= HIGH_LR * recipe.lr]
        return range(1, max(high, default=0) + 1)
    if not run.epochs:
        return range(0)
    epoch_steps = run.epochs[0]["step"]
    planned = recipe.steps or recipe.epochs * epoch_steps  # the schedule's length; a run may have ended before
    recipe = recipe.with_warmup_steps(epoch_steps)
    start = recipe.warmup_steps
    lowered = next((s for s in range(start, taken) if lr_at(s, planned, recipe) < HIGH_LR * recipe.lr), taken)
    return range(start + 1, lowered + 1)


def _mean_loss(points: Sequence[tuple[int, float]]) -> float:
    return statistics.fmean(loss for _, loss in points)
