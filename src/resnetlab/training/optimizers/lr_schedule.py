"""The learning rate as a pure function of the step and of past validation errors, so that nothing needs saving.

`register_schedule` adds a schedule.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from resnetlab.config import Recipe
from resnetlab.extension import SCHEDULES


@dataclass(frozen=True)
class ScheduleInput:
    """The values that a schedule may depend on."""

    step: int
    """The step, counted from 0."""
    total_steps: int
    recipe: Recipe
    num_drops: int = 0
    """Divisions by 10 so far, for `plateau` (`num_lr_drops`)."""

    @property
    def progress(self) -> float:
        """Share of the steps after the warm-up that are done, from 0 to below 1."""
        warmup = self.recipe.warmup_steps
        return (self.step - warmup) / max(1, self.total_steps - warmup)


MAX_ADVISED_LR = 0.1
"""Highest learning rate that is advised after a run that diverged: the paper's."""

Schedule = Callable[[ScheduleInput], float]
"""Returns the learning rate after the warm-up, in the unit of the recipe's `lr`."""


def register_schedule(name: str, schedule: Schedule) -> None:
    """Add a learning rate schedule under `name`, for `Recipe(schedule=name)`.

    Args:
        name: A new name.
        schedule: Maps a `ScheduleInput` to a learning rate, at least 0. It is called at every step after the warm-up
            and must be a pure function, since a resumed run calls it again.

    Raises:
        ConfigError: if the name is taken.
    """
    SCHEDULES.register(name, schedule)


def _step(at: ScheduleInput) -> float:
    return at.recipe.lr * 0.1 ** sum(_is_past(at.step, at.total_steps, milestone) for milestone in at.recipe.milestones)


def _is_past(step: int, total_steps: int, milestone: float) -> bool:
    return step / total_steps >= milestone


def milestone_steps(recipe: Recipe, total_steps: int) -> list[int]:
    """Return the steps, counted from 0, at which `step` divides the rate."""

    def first_step(milestone: float) -> int:
        about = math.ceil(milestone * total_steps)  # the product is rounded
        return next(step for step in range(about - 1, about + 2) if _is_past(step, total_steps, milestone))

    return [first_step(milestone) for milestone in recipe.milestones]


SCHEDULES.define("constant", lambda at: at.recipe.lr)
SCHEDULES.define("step", _step)
SCHEDULES.define("plateau", lambda at: at.recipe.lr * 0.1**at.num_drops)
SCHEDULES.define("linear", lambda at: at.recipe.lr * (1 - at.progress))
SCHEDULES.define("cosine", lambda at: at.recipe.lr * (1 + math.cos(math.pi * at.progress)) / 2)


def lr_at(step: int, total_steps: int, recipe: Recipe, *, at_initial_lr: bool = False, num_drops: int = 0) -> float:
    """Return the learning rate of step `step` of `total_steps`, counted from 0.

    `at_initial_lr` is true until the training error falls below the recipe's `initial_lr_until_pct`; `num_drops` is
    the count of `num_lr_drops`.

    `linear` and `cosine` fall from the recipe's rate at the end of the warm-up to 0, as in ffcv-imagenet (`get_lr`)
    and NVIDIA DeepLearningExamples (`lr_cosine_policy`: (1 + cos(pi (e - warm-up) / (epochs - warm-up))) / 2).

    Paper: sections 3.4 (`plateau`) and 4.2 (`step`: divided by 10 at 32k and 48k of 64k iterations; 110 layers start
    with 0.01).

    Raises:
        ConfigError: if the schedule is not registered.
    """
    if at_initial_lr and recipe.initial_lr is not None:
        return recipe.initial_lr
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    return SCHEDULES[recipe.schedule](ScheduleInput(step, total_steps, recipe, num_drops))


def lower_lr(lr: float) -> float:
    """Return a learning rate to try after a run with the recipe's rate `lr` diverged: a tenth, and at most 0.1."""
    return min(lr / 10, MAX_ADVISED_LR)


def num_lr_drops(val_errors: Sequence[float], patience: int) -> int:
    """Return how often `plateau` has divided the rate, given the validation error of each epoch so far.

    It divides after `patience` epochs without a new lowest error, and then starts counting again.
    """
    lowest, waited, dropped = math.inf, 0, 0
    for error in val_errors:
        if error < lowest:
            lowest, waited = error, 0
            continue
        waited += 1
        if waited == patience:
            waited, dropped = 0, dropped + 1
    return dropped
