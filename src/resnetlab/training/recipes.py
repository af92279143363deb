"""Named recipes: a name plus overrides describes how a network is trained. `register_recipe` adds one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from resnetlab.config import ConfigError, ModelConfig, Recipe
from resnetlab.extension import did_you_mean, load_extensions
from resnetlab.serialization import check_type
from resnetlab.training.modern_recipes import MODERN_RECIPES

INITIAL_LR_DEPTH = 110
"""Depth from which `cifar-paper` starts with lr 0.01 (section 4.2, footnote 5)."""

MAX_WARMUP_SHARE = 0.2
"""Share of a run of another length than its recipe's that a warm-up in epochs takes at most: that of `fast`."""
WARMUP_FIELDS = {"warmup_epochs", "warmup_steps"}
FITTED_FIELDS = (*sorted(WARMUP_FIELDS), "frozen_epochs", "train_sizes")
"""Fields of `Recipe` that follow another length of the run where they are not given."""

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # 1,257 training images: small batches give enough steps in a minute. Learning rate and length were selected on
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
        # For the accuracy of section 4.2 in a fraction of its steps: a rate that rises and falls once (Smith & Topin,
        # 2018), Nesterov's momentum, label smoothing and no decay on BN (He et al., 2019, "Bag of tricks"), images
        # of 24 pixels first (Tan & Le, 2021, "EfficientNetV2"), alternating flips (Jordan, 2024). Its values were not
        # selected by validation yet.
        Recipe(
            name="fast",
            epochs=30,
            batch_size=128,
            lr=0.3,
            scale_lr=True,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
            decay_norms=False,
            schedule="linear",
            warmup_epochs=6,
            label_smoothing=0.05,
            crop="pad",
            crop_padding=4,
            flip=True,
            alternate_flip=True,
            train_sizes=((0, 24), (0.4, 32)),
        ),
        # Section 3.4: 60 x 10^4 iterations, divided where the error plateaus. The mean is per channel, not per pixel:
        # with crops of random scale a pixel has no place of its own; and images are divided by the deviation of each
        # channel, which the paper does not do (both as in the public descendants).
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
        # The usual 90 epochs for ResNet v1.5: NVIDIA DeepLearningExamples, ResNet50 v1.5 for PyTorch (lr 0.256 at 256
        # images, 8 epochs of warm-up, cosine, label smoothing 0.1, 1/32768 of decay and none on BN). The rate is
        # proportional to the batch (Goyal et al., 2017: up to 8,192 images a step).
        Recipe(
            name="imagenet-90",
            epochs=90,
            batch_size=256,
            lr=0.256,
            scale_lr=True,
            momentum=0.875,
            weight_decay=1 / 32768,
            schedule="cosine",
            warmup_epochs=8,
            label_smoothing=0.1,
            decay_norms=False,
            crop="resized",
            flip=True,
        ),
        # 16 epochs with progressive resizing: libffcv/ffcv-imagenet, rn50_16_epochs (lr 0.5 at 256 images, label
        # smoothing 0.1, decay 1e-4 and none on BN; 160 pixels, then 192; evaluated at 224).
        Recipe(
            name="imagenet-fast",
            epochs=16,
            batch_size=1024,
            lr=2.0,
            scale_lr=True,
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
        # For random weights and a user's own images; `train` sets epochs and batch by their number. One cycle of the
        # rate with label smoothing and no decay on BN, as in `imagenet-90` and `fast`. Its values were not selected by
        # validation yet.
        Recipe(
            name="scratch",
            epochs=100,
            batch_size=32,
            lr=0.05,
            scale_lr=True,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
            decay_norms=False,
            schedule="cosine",
            warmup_epochs=1,
            label_smoothing=0.1,
            crop="pad",
            crop_padding=4,
            flip=True,
            keep="best",
        ),
        # For a network from a file, and hundreds to ten thousand images. Rate, length and batch were
        # selected on the validation error of two small data sets; warm-up and layer decay did not help (docs/log.md).
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
            keep="best",
        ),
        *MODERN_RECIPES,
    )
}


BUILT_IN = frozenset(RECIPES)
"""Names of the recipes of this package; `register_recipe` adds others to `RECIPES`."""


def register_recipe(recipe: Recipe) -> None:
    """Add a recipe under its own `name`, for `recipe(name)` and `--recipe NAME`.

    Raises:
        ConfigError: if the name is empty or taken.
    """
    check_type("recipe", recipe, Recipe, example="resnetlab.Recipe('mine', epochs=5)")
    if not recipe.name or recipe.name in RECIPES:
        raise ConfigError(f"recipe {recipe.name!r} exists already; choose another name")
    RECIPES[recipe.name] = recipe


def recipe(name: str, model: ModelConfig | None = None, **overrides: Any) -> Recipe:
    """Return a named recipe with some fields changed.

    Args:
        name: A name of `RECIPES`, such as `cifar-paper`.
        model: Adapts the recipe to this network first (`for_network`).
        overrides: Fields of `Recipe`, as for `change_recipe`; `None` keeps the recipe's value.

    Raises:
        ConfigError: if the name is unknown, or a value is out of range.
    """
    check_type("name", name, str, example="'digits'")
    if name not in RECIPES:
        load_extensions()
    if name not in RECIPES:
        known = f"known: {', '.join(RECIPES)}; or a file such as my.toml"
        raise ConfigError(f"recipe {name!r} is unknown; {known}{did_you_mean(name, RECIPES)}")
    named = RECIPES[name] if model is None else for_network(RECIPES[name], model)
    return change_recipe(named, {field: value for field, value in overrides.items() if value is not None})


def change_recipe(base: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe with some fields changed.

    `epochs` without `steps` replaces the recipe's steps. In a recipe with `scale_lr`, `batch_size` without `lr` scales
    the learning rate. Warm-up, epochs of the head alone and image sizes are fitted to another length where they are not
    given (`_fitted_fields`).

    Raises:
        ConfigError: if a value is out of range.
    """
    given = dict(changes)
    fields = [field.name for field in dataclasses.fields(Recipe)]
    for name in given:
        if name not in fields:
            known = did_you_mean(name, fields) or f"; a recipe has: {', '.join(fields)}"
            raise ConfigError(f"a recipe has no field {name}{known}")
    if given.get("epochs") is not None:
        given.setdefault("steps", None)
    if given.get("scale_lr", base.scale_lr) and "batch_size" in given:
        given.setdefault("lr", base.lr * given["batch_size"] / base.batch_size)
    changed = dataclasses.replace(base, **given)
    chosen = given.keys() | (WARMUP_FIELDS if WARMUP_FIELDS & given.keys() else set())
    fitted = {name: value for name, value in _fitted_fields(base, changed).items() if name not in chosen}
    return dataclasses.replace(changed, **fitted)


def _fitted_fields(base: Recipe, changed: Recipe) -> dict[str, Any]:
    """Return the fields that follow the length of a recipe, for one whose length was changed; empty if it was not.

    A warm-up in epochs stays as long as it is, but takes at most a fifth of the epochs, or its share of the recipe's
    own length if that is more. In a run of so many steps it takes that share of them: how many steps an epoch has is
    unknown here. At least one epoch trains all layers, and the last one has the last image size.
    """
    share = base.warmup_epochs / base.epochs if base.steps is None else 0.0
    if changed.steps is not None and base.steps is not None and base.warmup_steps:
        return {"warmup_steps": round(base.warmup_steps * changed.steps / base.steps)}
    if changed.steps is not None:
        if changed.steps == base.steps or not share or base.warmup_steps:
            return {}
        return {"warmup_epochs": 0.0, "warmup_steps": round(share * changed.steps)}
    if base.steps is None and changed.epochs == base.epochs:
        return {}
    last = (changed.epochs - 1) / changed.epochs
    return {
        "warmup_epochs": min(base.warmup_epochs, max(MAX_WARMUP_SHARE, share) * changed.epochs),
        "frozen_epochs": min(base.frozen_epochs, changed.epochs - 1),
        "train_sizes": tuple({min(start, last): side for start, side in base.train_sizes}.items()),
    }


def for_network(recipe: Recipe, model: ModelConfig) -> Recipe:
    """Return the recipe adapted to a network.

    `cifar-paper` starts with lr 0.01 for 110 layers and more (section 4.2). `finetune` and `scratch` use resized crops
    for ImageNet networks, and padded crops for CIFAR networks.
    """
    if recipe.name in ("finetune", "scratch") and model.stem != "cifar":
        return dataclasses.replace(recipe, crop="resized", crop_padding=0)
    if recipe.name == "cifar-paper" and model.depth >= INITIAL_LR_DEPTH and recipe.initial_lr is None:
        return dataclasses.replace(recipe, initial_lr=0.01)
    return recipe


def default_recipe(data: str, model: ModelConfig) -> str:
    """Return the name of the default recipe: `digits` for digits, else the paper's recipe for the kind of network."""
    if data == "digits":
        return "digits"
    return "cifar-paper" if model.stem == "cifar" else "imagenet-paper"
