"""The classes of a run in words: how unequal they are, what corrects it, and the chance level."""

from typing import TYPE_CHECKING

from resnetlab.evaluation.chance import are_unequal, chance_level, imbalance
from resnetlab.training.multi_label import MEASURES

if TYPE_CHECKING:
    from resnetlab.training.trainer_setup import TrainerComponents

MAX_COUNTS = 6
"""Classes whose number of images is printed: the largest ones, and from more classes the smallest one."""


def describe_classes(trainer: "TrainerComponents") -> list[str]:
    """Return lines on unequal classes of the training split, and on the chance level of the validation split."""
    counts, classes = trainer.data.class_counts, trainer.data.dataset.classes
    lines = []
    if are_unequal(counts) and not trainer.data.dataset.train.is_multi_label:
        largest_first = sorted(range(len(counts)), key=lambda label: -counts[label])
        shown = [f"{classes[label]} {counts[label]:,}" for label in largest_first]
        if len(shown) > MAX_COUNTS:
            shown = [*shown[: MAX_COUNTS - 1], "…", shown[-1]]
        lines.append(f"classes  images for training: {', '.join(shown).replace('…,', '…')}")
        lines.append(f"         {imbalance(counts):.3g} to 1; {_correction(trainer)}")
    val = trainer.data.dataset.val
    if val.is_multi_label:
        return [*lines, f"labels   {MEASURES[0]}", f"         {MEASURES[1]}"]
    level = chance_level(val.class_counts(len(classes)))
    if level is not None:
        lines.append(f"chance   {level.error_pct:.2f} % val error by {level.describe(classes)}")
    return lines


def _correction(trainer: "TrainerComponents") -> str:
    if trainer.config.recipe.balanced_order:
        return "each class drawn equally often"
    weights = trainer.data.class_weights
    if weights is not None:
        return f"loss weighted by {weights[weights > 0].min():.3g} to {weights.max():.3g}"
    return "--class-weights balanced or --balanced-order on corrects it"
