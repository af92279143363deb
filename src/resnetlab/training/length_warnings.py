"""Warnings about a run that is too short for its recipe: warm-up, epochs of the head alone, and image sizes."""

from resnetlab.config import Recipe
from resnetlab.system.count_text import count_text


def length_warnings(recipe: Recipe, total_steps: int, num_epochs: int) -> list[str]:
    """Return what a run of this length does not reach.

    Args:
        recipe: The recipe, with the warm-up in steps.
        total_steps: Steps of the run.
        num_epochs: Its epochs, the last of which may be cut short.
    """
    found = []
    if 2 * recipe.warmup_steps >= total_steps:
        found.append(
            f"the warm-up lasts {recipe.warmup_steps:,} steps and the run {total_steps:,}: the learning rate rises for "
            "half of it or more; train longer, or shorten the warm-up with --set warmup_steps"
        )
    if recipe.frozen_epochs >= num_epochs:
        found.append(
            f"only the head learns: frozen_epochs is {recipe.frozen_epochs}, and the run has "
            f"{count_text(num_epochs, 'epoch')}; train longer, or give --frozen-epochs {num_epochs - 1}"
        )
    used = {size_index(recipe, epoch, num_epochs) for epoch in range(num_epochs)}
    unused = [f"{side}" for index, (_, side) in enumerate(recipe.train_sizes) if index not in used]
    if unused:
        found.append(
            f"no image is trained at {' and '.join(unused)} pixels: sizes change between epochs, and the run has "
            f"{count_text(num_epochs, 'epoch')}; train longer, or change train_sizes"
        )
    return found


def size_index(recipe: Recipe, epoch: int, num_epochs: int) -> int:
    """Return the position in `train_sizes` of the size of an epoch, counted from 0; -1 if the recipe has no sizes."""
    return sum(start <= epoch / num_epochs for start, _ in recipe.train_sizes) - 1
