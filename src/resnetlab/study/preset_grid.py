"""The runs of a preset study, with given values in place of the preset's, and the folder of the study."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnetlab.config import DataConfig, Norm, Precision, Recipe
from resnetlab.study.arms import Family
from resnetlab.study.grid import IMAGENET_DEPTHS, Grid, StudyData, default_recipe
from resnetlab.study.presets import Preset
from resnetlab.study.results import data_folder_name
from resnetlab.training.recipe_settings import named_recipe
from resnetlab.training.recipes import change_recipe


def preset_grid(
    preset: Preset,
    data: Sequence[DataConfig],
    *,
    recipe: str | Recipe | None = None,
    changes: Mapping[str, Any] | None = None,
    train_images: Sequence[int | None] | None = None,
    family: Family = "cifar",
    depths: Sequence[int] | None = None,
    arms: Sequence[str] | None = None,
    num_seeds: int | None = None,
    precision: Precision = "fp32",
    norm: Norm | None = None,
    init_scale: float | None = None,
    identity_init: bool = True,
) -> Grid:
    """Return the runs of a preset. `None` stands for the preset's value.

    Args:
        preset: The settings to start from.
        data: The data sets. One with `train_images` of its own has that size instead of the preset's.
        recipe: A recipe or its name; each data set's own if `None`.
        changes: Fields of the recipe to replace. The preset's length holds only without a recipe and a length here.
        train_images: Sizes of the training set; `None` among them uses all images.
        family: Networks of section 4.2 or of Table 1; the latter have 18 and 34 layers if `depths` is `None`.
        depths: Layers of the networks.
        arms: What is compared.
        num_seeds: Repetitions of each network.
        precision: Precision of convolutions.
        norm: Normalisation of every network.
        init_scale: Factor on the initial weights of convolutions.
        identity_init: False leaves out identity initialisation, which the preset may have.

    Raises:
        ConfigError: for a value that cannot work.
    """
    changes = dict(changes or {})
    if recipe is None and changes.keys().isdisjoint(("epochs", "steps")):
        length = {"epochs": preset.epochs, "steps": preset.steps}
        changes |= {name: value for name, value in length.items() if value is not None}
    datasets = []
    for config in data:
        own = recipe if isinstance(recipe, Recipe) else named_recipe(recipe or default_recipe(config.name, family))
        sizes = [config.train_images] if config.train_images else preset.train_images
        sizes = sizes if train_images is None else train_images
        datasets += [StudyData(replace(config, train_images=size), change_recipe(own, changes)) for size in sizes]
    preset_depths = preset.depths if family == "cifar" else IMAGENET_DEPTHS
    return Grid(
        datasets=tuple(datasets),
        depths=preset_depths if depths is None else tuple(depths),
        arms=preset.arms if arms is None else tuple(arms),
        num_seeds=preset.num_seeds if num_seeds is None else num_seeds,
        family=family,
        precision=precision,
        norm=norm or preset.norm,
        init_scale=preset.init_scale if init_scale is None else init_scale,
        identity_init=preset.identity_init and identity_init,
    )


def default_folder(data: Sequence[DataConfig], preset: str | None) -> Path:
    """Return the folder of a study without one: `studies/digits`, `studies/digits-vanishing`."""
    names = dict.fromkeys(data_folder_name(config) for config in data)
    return Path("studies") / "-".join(["+".join(names), *([preset] if preset else [])])
