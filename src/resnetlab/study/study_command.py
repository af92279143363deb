"""The `resnetlab study` command that makes runs like those of a study, with some of them added."""

import dataclasses
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resnetlab.config import ConfigError, DataConfig, Norm, Recipe
from resnetlab.extension import is_installed_extension
from resnetlab.serialization import differences
from resnetlab.study.arms import CAPPED, MAX_UPDATE, Family, arm_network, arm_norm, arm_recipe, family_of, ordered_arms
from resnetlab.study.executors.own_code import registered_code
from resnetlab.study.grid import IMAGENET_DEPTHS, Grid, StudyData, default_recipe
from resnetlab.study.results import RUNS, Run
from resnetlab.training.recipes import BUILT_IN, FITTED_FIELDS, RECIPES, change_recipe, for_network

DATA_OPTIONS = (
    "root",
    "split_folders",
    "image_column",
    "label_column",
    "on_bad_image",
    "color_profiles",
    "image_size",
)
"""Fields of `DataConfig` that are options of the command; `root` is `--data-root`."""
OWN_OPTIONS = ("epochs", "steps", "lr")
"""Fields of `Recipe` that are options of the command; the others go through `--set`."""


@dataclass(frozen=True)
class Additions:
    """Runs that a study lacks; `None` keeps what it has."""

    arms: tuple[str, ...] | None = None
    depths: tuple[int, ...] | None = None
    num_seeds: int | None = None
    longer: int | None = None
    """Factor on the length of each run: another study in a folder of its own, since its runs are not comparable."""
    again: bool = False
    """The same study in a folder of its own."""
    last_epoch: bool = False
    """The same study in a folder of its own, measured at the last epoch, whatever the validation error."""


def study_command(runs: Sequence[Run], added: Additions) -> str | None:
    """Return the command that makes the runs of one data set with additions, quoted for a POSIX shell.

    `None` if no command makes them (`command_obstacle`). It reuses the runs that are in the study's folder. Options of
    the executor are left out: they do not change results.

    Args:
        runs: Runs on one data set, from random weights, which share their recipe.
        added: The runs to add.
    """
    if command_obstacle(runs, added) is not None:
        return None
    first = runs[0]
    data, model = first.config.data, first.config.model
    words = ["resnetlab", "study", "--data", data.name]
    defaults = DataConfig()
    for name in DATA_OPTIONS:
        value = getattr(data, name)
        if value != getattr(defaults, name):
            words += ["--data-root" if name == "root" else _option(name), str(value)]
    sizes = sorted({run.train_images or 0 for run in runs}, key=lambda size: size or float("inf"))
    words += [] if sizes == [0] else ["--train-images", *map(str, sizes)]
    arms, depths, seeds = _axes(runs, added)
    words += [] if family_of(model) == "cifar" else ["--family", family_of(model)]
    words += ["--arms", *arms, "--depths", *map(str, depths), "--seeds", str(seeds)]
    words += _recipe_words(first, added)
    words += [] if _norm(runs) == "batch" else ["--norm", _norm(runs)]
    words += [] if model.init_scale == 1 else ["--init-scale", f"{model.init_scale:g}"]
    if first.config.precision in ("tf32", "bf16"):
        words += ["--precision", first.config.precision]
    if "plain" in arms and len(depths) > 1:  # the default preset would add these runs
        words += ["--no-identity-init"]
    return shlex.join([*words, *_folder_words(first, added)])


def command_obstacle(runs: Sequence[Run], added: Additions) -> str | None:
    """Return why no command makes these runs with additions, in words; `None` if one does.

    The command knows nothing of what a script has registered, and has no option for some settings of data and networks.
    """
    first = runs[0].config
    recipe, (arms, depths, seeds) = first.recipe, _axes(runs, added)
    used = {*(arm.removesuffix(CAPPED) for arm in arms), recipe.optimizer, recipe.schedule, *recipe.augmentations}
    for own in registered_code():
        if own.name in used and not is_installed_extension(own.code.__module__):
            return f"the {own.kind} {own.name} is registered in a script, which adds the runs with resnetlab.study"
    defaults = DataConfig()
    for field in dataclasses.fields(DataConfig):
        value = getattr(first.data, field.name)
        if field.name not in (*DATA_OPTIONS, "name", "train_images") and value != getattr(defaults, field.name):
            return f"{field.name}={value} is no option of the command; resnetlab.study adds the runs from Python"
    recipe = dataclasses.replace(recipe, max_update=None) if recipe.max_update == MAX_UPDATE else recipe
    family, norm, scale = family_of(first.model), _norm(runs), first.model.init_scale
    try:
        Grid((StudyData(first.data, recipe),), depths, arms, seeds, family=family, norm=norm, init_scale=scale)
        made = arm_network(runs[0].arm, runs[0].depth, family=family, norm=norm, init_scale=scale)
    except ConfigError as error:
        return str(error)
    same = {"name": "", "num_classes": 1, "in_channels": 3}
    changed = differences(dataclasses.replace(made, **same), dataclasses.replace(first.model, **same))
    return f"a study makes other networks ({'; '.join(changed)})" if changed else None


def _axes(runs: Sequence[Run], added: Additions) -> tuple[tuple[str, ...], tuple[int, ...], int]:
    """Return arms, depths and number of seeds of the runs with additions."""
    arms = added.arms or tuple(ordered_arms(run.arm for run in runs))
    depths = added.depths or tuple(sorted({run.depth for run in runs}))
    return arms, depths, added.num_seeds or max(run.seed for run in runs) + 1


def _norm(runs: Sequence[Run]) -> Norm:
    """Return the normalisation of the runs, apart from those whose block needs one of its own."""
    free: list[Norm] = [
        run.config.model.norm for run in runs if arm_norm(run.arm, "batch") != arm_norm(run.arm, "none")
    ]
    return free[0] if free else "batch"


def two_depths(depths: Sequence[int], family: Family) -> tuple[int, int]:
    """Return two depths for a study that has one: its own, and 56 or 20, which fit every block (ImageNet: 34 or 18)."""
    (own,) = depths
    shallow, deep = (20, 56) if family == "cifar" else IMAGENET_DEPTHS
    return (own, deep) if own < deep else (shallow, own)


def _folder_words(run: Run, added: Additions) -> list[str]:
    if run.directory.parent.name != RUNS:
        return []
    suffix = "-longer" if added.longer else "-again" if added.again else "-last" if added.last_epoch else ""
    return ["--out", f"{run.directory.parent.parent}{suffix}"]


def _recipe_words(run: Run, added: Additions) -> list[str]:
    """Return the options that give a run's recipe, starting from the named recipe that it resembles."""
    own, default = run.config.recipe, default_recipe(run.config.data.name, family_of(run.config.model))
    if added.last_epoch:
        own = dataclasses.replace(own, keep="last", early_stop_epochs=None)
    name = own.name if own.name in BUILT_IN else default
    base = arm_recipe(run.arm, for_network(RECIPES[name], run.config.model))
    changes = {
        field.name: getattr(own, field.name)
        for field in dataclasses.fields(Recipe)
        if getattr(own, field.name) != getattr(base, field.name)
    }
    if added.longer:
        length = "steps" if own.steps else "epochs"
        changes[length] = added.longer * getattr(own, length)
    if own.steps is None and base.steps is not None:  # epochs alone replace the steps
        changes.pop("steps", None)
        changes.setdefault("epochs", own.epochs)
    elif "epochs" in changes and own.steps is not None:
        changes.setdefault("steps", own.steps)
    if "batch_size" in changes:  # it would scale the learning rate of some recipes
        changes.setdefault("lr", own.lr)
    fitted = change_recipe(base, changes)
    changes |= {name: getattr(own, name) for name in FITTED_FIELDS if getattr(fitted, name) != getattr(own, name)}
    words = [] if name == default else ["--recipe", name]
    for field in OWN_OPTIONS:
        if changes.get(field) is not None:
            words += [_option(field), f"{changes.pop(field)}"]
    settings = [f"{field}={_toml(value)}" for field, value in changes.items()]
    return words + (["--set", *settings] if settings else [])


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _toml(value: Any) -> str:
    """Return a field's value as `--set` reads it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
