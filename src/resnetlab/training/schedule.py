"""The learning rate as a pure function of the step: nothing to save, restore or believe."""

import math

from resnetlab.config import Recipe


def lr_at(step: int, total_steps: int, recipe: Recipe) -> float:
    """Return the learning rate of step `step` of `total_steps`, counted from 0.

    Paper: sections 3.4 and 4.2 (`step`: divided by 10 at 32k and 48k of 64k iterations).
    """
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    done = step / total_steps
    if recipe.schedule == "step":
        return recipe.lr * 0.1 ** sum(done >= milestone for milestone in recipe.milestones)
    if recipe.schedule == "linear":
        return recipe.lr * (1 - done)
    if recipe.schedule == "cosine":
        return recipe.lr * (1 + math.cos(math.pi * done)) / 2
    return recipe.lr
