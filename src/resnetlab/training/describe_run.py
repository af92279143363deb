"""The resolved configuration of a run, as the lines that `train` prints before the first step."""

from typing import TYPE_CHECKING

from resnetlab.config import Recipe
from resnetlab.evaluation.chance import are_unequal, chance_level, imbalance
from resnetlab.system.count_text import count_text
from resnetlab.training.init_weights import describe_init
from resnetlab.training.multi_label import MEASURES
from resnetlab.training.optimizers.lr_schedule import milestone_steps
from resnetlab.training.reports import sharing

if TYPE_CHECKING:
    from resnetlab.training.trainer_setup import TrainerComponents

MAX_COUNTS = 6
"""Classes whose number of images is printed: the largest ones, and from more classes the smallest one."""


def describe_run(trainer: "TrainerComponents") -> list[str]:
    """Return what `train` prints before the first step: network, data, recipe, and how steps are computed."""
    config, dataset, preprocessing = trainer.config, trainer.data.dataset, trainer.data.preprocessing
    total_steps, steps_per_epoch = trainer.total_steps, trainer.steps_per_epoch
    model, recipe = config.model, config.recipe
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in dataset.splits.items())
    sides = [str(side) for _, side in recipe.train_sizes] or [str(preprocessing.image_size)]
    decayed = "" if recipe.decay_norms else ", none on BN and biases"
    if recipe.clip_grad_norm is not None:
        decayed += f", gradients clipped to {recipe.clip_grad_norm:g}"
    if recipe.max_update is not None:
        decayed += f", steps limited to {100 * recipe.max_update:g} % of a layer"
    lines = [
        f"network  {config.own_model}"
        if config.own_model
        else f"network  {model.name}: {model.arm}, {model.depth} layers, shortcut {model.shortcut}",
        f"data     {dataset.name}: {sizes}",
        f"         {count_text(len(dataset.classes), 'class')}; {' then '.join(sides)} pixels; "
        f"{'mean per pixel' if preprocessing.pixel_mean else 'mean and deviation per channel'}"
        f"{'' if config.weights is None else ', as in the file'}",
        *(f"         {line}" for line in dataset.reading),
        *_describe_classes(trainer),
        f"recipe   {recipe.name}; seed {config.seed}",
        f"         {length_text(total_steps, steps_per_epoch, recipe.batch_size)}",
        f"         lr {recipe.lr:g}, {_schedule(recipe, total_steps, steps_per_epoch)}",
        f"         {recipe.optimizer}, momentum {recipe.momentum:g}, weight decay {recipe.weight_decay:.3g}{decayed}",
        f"         {_augmentation(recipe)}",
        *_loss(recipe),
        *_fine_tuning(recipe),
        *_early_stopping(recipe, total_steps),
        f"computed {trainer.execution.describe()}",
    ]
    if trainer.start:
        lines.append(f"start    {describe_init(trainer.start)}")
    if shared := sharing(trainer):
        micro_batches = f", {shared['micro_batches']} micro-batches a step" if shared["micro_batches"] > 1 else ""
        normalised = shared["images_normalised_together"]
        lines.append(f"shared   {shared['processes']} processes{micro_batches}; BN over {normalised} images")
    if trainer.state.step:
        lines.append(f"resumed  after step {trainer.state.step:,}")
    return lines


def _describe_classes(trainer: "TrainerComponents") -> list[str]:
    """Return lines on unequal classes of the training split, and on the chance level of the validation split."""
    counts, classes = trainer.data.class_counts, trainer.data.dataset.classes
    lines = []
    if are_unequal(counts) and not trainer.data.dataset.train.is_multi_label:
        largest_first = sorted(range(len(counts)), key=lambda label: -counts[label])
        shown = [f"{classes[label]} {counts[label]:,}" for label in largest_first]
        if len(shown) > MAX_COUNTS:
            shown = [*shown[: MAX_COUNTS - 1], "…", shown[-1]]
        lines.append(f"classes  images for training: {', '.join(shown).replace('…,', '…')}")
        lines.append(f"         {imbalance(counts):.3g} to 1; {_class_correction(trainer)}")
    val = trainer.data.dataset.val
    if val.is_multi_label:
        return [*lines, f"labels   {MEASURES[0]}", f"         {MEASURES[1]}"]
    level = chance_level(val.class_counts(len(classes)))
    if level is not None:
        lines.append(f"chance   {level.error_pct:.2f} % val error by {level.describe(classes)}")
    return lines


def _class_correction(trainer: "TrainerComponents") -> str:
    if trainer.config.recipe.balanced_order:
        return "each class drawn equally often"
    weights = trainer.data.class_weights
    if weights is not None:
        return f"loss weighted by {weights[weights > 0].min():.3g} to {weights.max():.3g}"
    return "--class-weights balanced or --balanced-order on corrects it"


def length_text(total_steps: int, steps_per_epoch: int, batch_size: int) -> str:
    """Return the length of a run in words, such as `240 steps of 16 images (8 epochs of 30 steps)`."""
    epochs = total_steps / steps_per_epoch
    if epochs < 1:
        passes = f"{100 * epochs:.3g} % of an epoch"
    else:
        number = f"{epochs:,.2f}".rstrip("0").rstrip(".")
        passes = f"{number} epoch{'s' * (number != '1')} of {count_text(steps_per_epoch, 'step')}"
    return f"{count_text(total_steps, 'step')} of {count_text(batch_size, 'image')} ({passes})"


def _schedule(recipe: Recipe, total_steps: int, steps_per_epoch: int) -> str:
    schedule = {
        "step": "/10 at " + ", ".join(f"{step:,}" for step in milestone_steps(recipe, total_steps)),
        "plateau": f"/10 after {recipe.patience} epochs without a lower validation error",
    }.get(recipe.schedule, recipe.schedule)
    if recipe.initial_lr is not None:
        schedule += f", {recipe.initial_lr:g} until the training error is below {recipe.initial_lr_until_pct:g} %"
    if warmup := recipe.warmup_steps / steps_per_epoch:  # `warmup_epochs` in steps, unless those are given
        number = f"{warmup:.3g}"
        schedule += f", {number} epoch{'s' * (number != '1')} of warm-up"
    return schedule


def _early_stopping(recipe: Recipe, total_steps: int) -> list[str]:
    if recipe.early_stop_epochs is None:
        return []
    epochs = f"{recipe.early_stop_epochs} epoch{'s' * (recipe.early_stop_epochs > 1)}"
    return [f"         ends after {epochs} without a lower val error; lr as for {total_steps:,} steps"]


def _augmentation(recipe: Recipe) -> str:
    crops = {
        "pad": f"pad {recipe.crop_padding} and crop" if recipe.crop_padding else "",
        "scale": "scale and crop",
        "resized": "resized crop",
    }
    steps = [
        crops[recipe.crop],
        "flip" if recipe.flip else "",
        f"jitter {recipe.jitter:g}" if recipe.jitter else "",
        f"PCA lighting {recipe.lighting:g}" if recipe.lighting else "",
        "TrivialAugment" if recipe.trivial_augment else "",
        "" if recipe.rand_augment is None else f"RandAugment {recipe.rand_augment:g}",
        f"random erasing {recipe.random_erasing:g}" if recipe.random_erasing else "",
        *recipe.augmentations,
        f"mixup {recipe.mixup:g}" if recipe.mixup else "",
        f"CutMix {recipe.cutmix:g}" if recipe.cutmix else "",
        f"{recipe.augment_repeats} copies of an image in a batch" if recipe.augment_repeats > 1 else "",
        f"labels smoothed by {recipe.label_smoothing:g}" if recipe.label_smoothing else "",
    ]
    return ", ".join(filter(None, steps)) or "no augmentation"


def _loss(recipe: Recipe) -> list[str]:
    """Return a line about the loss and the reported training error, where they are not the usual ones."""
    words = []
    if recipe.loss != "cross_entropy":
        present = "" if recipe.bce_threshold is None else f", a share above {recipe.bce_threshold:g} is a class"
        reduced = "summed" if recipe.loss == "bce_sum" else "averaged"
        words.append(f"binary cross-entropy {reduced} over classes{present}")
    if recipe.mixup or recipe.cutmix:
        words.append("training error: of the class with the larger share of a mixed image")
    return [f"         {line}" for line in words]


def _fine_tuning(recipe: Recipe) -> list[str]:
    """Return a line about the parameters that learn slower than the head; empty if none does."""
    words = [
        f"only the head for {recipe.frozen_epochs} epoch{'s' * (recipe.frozen_epochs > 1)}"
        if recipe.frozen_epochs
        else "",
        f"lr x {recipe.layer_decay:g} for each stage back from the head" if recipe.layer_decay < 1 else "",
        "BN frozen" if recipe.freeze_bn else "",
    ]
    return [f"         {', '.join(filter(None, words))}"] if any(words) else []
