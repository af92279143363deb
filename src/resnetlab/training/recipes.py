"""Named recipes: the ways of training that have a name. A name plus overrides is all a run needs. No torch here."""

import dataclasses
from typing import Any

from resnetlab.config import ConfigError, ModelConfig, Recipe

CAUTIOUS_DEPTH = 110
"""From this depth on `cifar-paper` starts with lr 0.01 (section 4.2, footnote 5)."""

SCALED = ("imagenet-90", "imagenet-fast")
"""Recipes for any number of devices: made for warm-up and a learning rate in proportion to the batch."""

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # 1,257 training images: small batches give enough steps in a minute. Learning rate and length were chosen on
        # training and validation error (docs/log.md); momentum, decay and the two drops are section 4.2's.
        Recipe(
            name="digits",
            epochs=5,
            batch_size=16,
            lr=0.01,
            momentum=0.9,
            weight_decay=1e-4,
            schedule="step",
            milestones=(0.5, 0.75),
        ),
        # Section 4.2: 64k iterations, divided at 32k and 48k.
        Recipe(
            name="cifar-paper",
            steps=64_000,
            batch_size=128,
            lr=0.1,
            momentum=0.9,
            weight_decay=1e-4,
            schedule="step",
            milestones=(0.5, 0.75),
            crop="pad",
            crop_padding=4,
            flip=True,
            normalise="pixel",
        ),
        # Section 3.4: 60 x 10^4 iterations, divided where the error plateaus. The mean is per channel, not per pixel:
        # with crops of random scale a pixel has no place of its own (as in the public descendants).
        Recipe(
            name="imagenet-paper",
            steps=600_000,
            batch_size=256,
            lr=0.1,
            momentum=0.9,
            weight_decay=1e-4,
            schedule="plateau",
            crop="scale",
            scale_range=(256, 480),
            flip=True,
            lighting=0.1,
        ),
        # The usual 90 epochs of v1.5: NVIDIA DeepLearningExamples, ResNet50 v1.5 for PyTorch (lr 0.256 at 256
        # images, 8 epochs of warm-up, cosine, label smoothing 0.1, 1/32768 of decay and none on BN). The rate goes
        # with the batch (Goyal et al., 2017: up to 8,192 images a step).
        Recipe(
            name="imagenet-90",
            epochs=90,
            batch_size=256,
            lr=0.256,
            momentum=0.875,
            weight_decay=1 / 32768,
            schedule="cosine",
            warmup_epochs=8,
            label_smoothing=0.1,
            decay_norms=False,
            crop="resized",
            flip=True,
        ),
        # 16 epochs with images that grow: libffcv/ffcv-imagenet, rn50_16_epochs (lr 0.5 at 256 images, label smoothing
        # 0.1, decay 1e-4 and none on BN; 160 pixels, then 192, judged at 224).
        Recipe(
            name="imagenet-fast",
            epochs=16,
            batch_size=1024,
            lr=2.0,
            momentum=0.9,
            weight_decay=1e-4,
            schedule="linear",
            warmup_epochs=2,
            label_smoothing=0.1,
            decay_norms=False,
            crop="resized",
            flip=True,
            train_sizes=((0, 160), (0.75, 192)),
        ),
        # For a network that starts from a file, and some hundred to ten thousand images. Rate, length and batch were
        # chosen on the validation error of two small data sets; warm-up and layer decay did not help (docs/log.md).
        Recipe(
            name="finetune",
            epochs=20,
            batch_size=16,
            lr=0.03,
            momentum=0.9,
            weight_decay=1e-4,
            schedule="cosine",
            crop="pad",
            crop_padding=4,
            flip=True,
            frozen_epochs=1,
        ),
    )
}


def recipe(name: str, model: ModelConfig | None = None, **overrides: Any) -> Recipe:
    """Return a named recipe with fields changed; an override of `None` leaves the recipe's own value.

    The learning rate of the recipes in `SCALED` goes with the batch size, unless one is given. Where `model` is given
    the recipe is first made what `for_network` says. Epochs given without steps take the place
    of the recipe's steps.

    Raises:
        ConfigError: for an unknown name, or a value the recipe refuses.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} is unknown; known: {', '.join(RECIPES)}")
    given = {field: value for field, value in overrides.items() if value is not None}
    if "epochs" in given:
        given.setdefault("steps", None)
    named = RECIPES[name] if model is None else for_network(RECIPES[name], model)
    if name in SCALED and "batch_size" in given:
        given.setdefault("lr", named.lr * given["batch_size"] / named.batch_size)
    return dataclasses.replace(named, **given)


def for_network(recipe: Recipe, model: ModelConfig) -> Recipe:
    """Return the recipe as a network needs it.

    `cifar-paper` starts with 0.01 for 110 layers and more (section 4.2). `finetune` shows ImageNet networks boxes of
    photographs, resized, in place of shifted small images.
    """
    if recipe.name == "finetune" and model.stem == "imagenet":
        return dataclasses.replace(recipe, crop="resized", crop_padding=0)
    if recipe.name == "cifar-paper" and model.depth >= CAUTIOUS_DEPTH and recipe.initial_lr is None:
        return dataclasses.replace(recipe, initial_lr=0.01)
    return recipe


def default_recipe(data: str, model: ModelConfig) -> str:
    """Return the name of the recipe where none is given: the network's own of the paper, and digits' for digits."""
    if data == "digits":
        return "digits"
    return "imagenet-paper" if model.stem == "imagenet" else "cifar-paper"
