"""The learning rate as a pure function of the step and of errors already seen: nothing hidden to save or believe."""

import math
from collections.abc import Sequence

from resnetlab.config import Recipe


def lr_at(step: int, total_steps: int, recipe: Recipe, *, cautious: bool = False, num_drops: int = 0) -> float:
    """Return the learning rate of step `step` of `total_steps`, counted from 0.

    `cautious` says that the training error has not yet fallen below the recipe's `initial_lr_until_pct`; `num_drops` is
    what `num_lr_drops` counted.

    `linear` and `cosine` fall from the end of the warm-up on, where the rate is the recipe's, to 0: as ffcv-imagenet
    (`get_lr`: 0 at epoch 0, lr at 2, 0 at 16, straight lines between) and NVIDIA DeepLearningExamples
    (`lr_cosine_policy`: (1 + cos(pi (e - warm-up) / (epochs - warm-up))) / 2) do it.

    Paper: sections 3.4 (`plateau`) and 4.2 (`step`: divided by 10 at 32k and 48k of 64k iterations; 110 layers start
    with 0.01).
    """
    if cautious and recipe.initial_lr is not None:
        return recipe.initial_lr
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    if recipe.schedule == "step":
        return recipe.lr * 0.1 ** sum(step / total_steps >= milestone for milestone in recipe.milestones)
    if recipe.schedule == "plateau":
        return recipe.lr * 0.1**num_drops
    fallen = (step - recipe.warmup_steps) / max(1, total_steps - recipe.warmup_steps)
    if recipe.schedule == "linear":
        return recipe.lr * (1 - fallen)
    if recipe.schedule == "cosine":
        return recipe.lr * (1 + math.cos(math.pi * fallen)) / 2
    return recipe.lr


def num_lr_drops(val_errors: Sequence[float], patience: int) -> int:
    """Return how often `plateau` has divided after these validation errors, one for each epoch so far.

    It divides when `patience` epochs in a row brought no new lowest error, and then counts afresh.
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
