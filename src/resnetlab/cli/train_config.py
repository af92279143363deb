"""The configuration that the options of `resnetlab train` describe: of a new run, and of one that continues."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetlab.cli.train_options import Options
from resnetlab.cli.train_plan import (
    check_plan_options,
    chooses_network,
    chooses_weights,
    given_weights,
    is_planned,
    plan_request,
)
from resnetlab.config import ConfigError, DataConfig, ModelConfig, RunConfig, read_config
from resnetlab.system.process_group import local_world_size, process_group_from_env, restart_count

if TYPE_CHECKING:
    from resnetlab.training.runtime_options import RuntimeOptions

MAX_UNASKED_S = 86_400.0
"""Expected time in seconds beyond which a run needs --yes, unless its length or recipe is given."""
MAX_TIMEOUT_S = 1_000_000
"""Upper limit of `--timeout`: eleven days."""


def resolve_run(options: Options) -> tuple[RunConfig, Path]:
    """Return the configuration and the directory of the run; `--resume` reads the configuration from the directory.

    Raises:
        ConfigError: for an unknown name, a value out of range, or a missing run to resume.
    """
    from resnetlab.data.registry import dataset_title
    from resnetlab.models.similar_paths import suggest_path
    from resnetlab.training.recipe_settings import named_recipe

    given = options.run.out
    if options.run.resume and given is not None:
        if not (given / "config.json").exists():
            hint = suggest_path(given, "config.json")
            raise ConfigError(f"{given}: no run to resume{hint or '; omit --resume to start one'}")
        return override_config(read_config(given / "config.json"), options), given
    check_plan_options(options)
    config = new_config(options)
    network = "" if chooses_network(options) else f"-{config.model.name}"
    suffix = "-finetuned" if options.model is None and config.weights is not None else ""
    out = given or Path("runs") / f"{dataset_title(config.data)}{network}{suffix}-seed{config.seed}"
    if is_planned(options) and continues(options, out):
        stored = read_config(out / "config.json")
        name = options.recipe.name
        is_same = name is not None and named_recipe(name).name == stored.recipe.name
        if options.minutes is not None and is_same:  # the recipe's length gave way to the time
            options = replace(options, recipe=replace(options.recipe, name=None))
        config = override_config(stored, options)
    if options.run.resume and not (out / "config.json").exists():
        hint = suggest_path(out, "config.json")
        raise ConfigError(f"{out}: no run to resume{hint or '; name its directory with --out'}")
    return config, out


def continues(options: Options, out: Path) -> bool:
    """Return whether a run in the directory is continued: its configuration was planned, and stays."""
    return (out / "config.json").exists() and not (options.run.fresh and restart_count() == 0)


def new_config(options: Options) -> RunConfig:
    """Return the configuration that the options describe, without a plan.

    Raises:
        ConfigError: for an unknown name, a value out of range, or missing options.
    """
    from resnetlab.data.registry import LISTED_KINDS, detect_kind
    from resnetlab.models.model_card import read_card
    from resnetlab.models.zoo import model_config
    from resnetlab.training.recipe_settings import named_recipe
    from resnetlab.training.recipes import change_recipe, default_recipe

    given = given_weights(options)
    weights = None if given is None else _model_file(given)
    if options.data is None:
        raise ConfigError("--data is missing; give cifar10, or the path of a folder of images or of parquet files")
    data = DataConfig(options.data, **_data_changes(options))
    is_custom_data = detect_kind(data) in LISTED_KINDS
    if options.model is None and weights is not None:
        model, name = read_card(weights).model, options.recipe.name or "finetune"
    else:
        model = model_config(options.model or ("resnet18" if is_custom_data else "resnet20"))
        name = options.recipe.name or default_recipe(data.name, model)
    recipe = change_recipe(named_recipe(name, model), options.recipe.changes())
    if chooses_weights(options):  # the plan looks for weights
        recipe = replace(recipe, frozen_epochs=0, freeze_bn=False)
    elif name == "finetune" and weights is None:
        raise ConfigError("recipe finetune needs trained weights; name a model file with --from")
    return RunConfig(model, data, recipe, **options.run_fields(), weights=weights)


def unmeasured_config(options: Options) -> RunConfig:
    """Return the configuration that `train` gives a new run, as far as it needs neither measurement nor download.

    Published weights are used if they are on this machine. The length is the usual one.

    Raises:
        ConfigError: as `train` does.
    """
    config = new_config(options)
    if not is_planned(options):
        return config
    from resnetlab.models.pretrained.catalogue import CATALOGUE
    from resnetlab.models.pretrained.fetch import is_cached
    from resnetlab.training.plan_run import plan_run

    request = plan_request(options, config, options.recipe.changes())
    return plan_run(request, lambda name: is_cached(CATALOGUE[name]), measures=False).config


def _model_file(weights: Path) -> str:
    """Return the name or path of initial weights; a file of weights is converted, and what is assumed is printed."""
    from resnetlab.models.pretrained.from_file import model_file_of

    def log(line: str) -> None:
        if process_group_from_env().is_first:
            print(f"resnetlab: {line}", file=sys.stderr)

    return model_file_of(str(weights), log)


def override_config(config: RunConfig, options: Options) -> RunConfig:
    """Return a run's configuration, with its values replaced by the options that are given.

    A recipe whose learning rate is proportional to the batch size scales the run's learning rate with `batch_size`.
    """
    from resnetlab.models.zoo import model_config
    from resnetlab.training.recipe_settings import named_recipe
    from resnetlab.training.recipes import FITTED_FIELDS, change_recipe

    model: ModelConfig = model_config(options.model) if options.model else config.model
    own = {name: getattr(config.recipe, name) for name in FITTED_FIELDS}
    changes = options.recipe.changes()
    if options.recipe.name is None:
        recipe = change_recipe(config.recipe, {**own, **changes})  # what was fitted to the length stays
    else:
        recipe = change_recipe(named_recipe(options.recipe.name, model), changes)
    data = replace(config.data, **_data_changes(options))
    if options.data is not None:
        data = replace(data, name=options.data)
    values = {"model": model, "data": data, "recipe": recipe, **options.run_fields()}
    if options.weights is not None:
        given = given_weights(options)
        values["weights"] = None if given is None else _model_file(given)
    if options.minutes not in (None, config.minutes):
        raise ConfigError("--minutes plans a new run; add --fresh to start over, or another folder with --out")
    return replace(config, **values)


def runtime_options(options: Options, out: Path | None = None) -> "RuntimeOptions":
    """Return the options that do not affect the result of the run in `out`.

    Raises:
        ConfigError: for a value out of range.
    """
    from resnetlab.system.cores import usable_cores
    from resnetlab.training.runtime_options import RuntimeOptions

    run, execution = options.run, options.execution
    has_length = any((options.recipe.name, options.minutes, {"epochs", "steps"} & options.recipe.changes().keys()))
    is_agreed = options.yes or has_length or (out is not None and continues(options, out))
    cores = max(1, usable_cores() // local_world_size())
    if not 1 <= execution.timeout_s <= MAX_TIMEOUT_S:
        raise ConfigError(f"timeout must be from 1 to {MAX_TIMEOUT_S:,}, not {execution.timeout_s:g}")
    return RuntimeOptions(
        workers=cores if execution.workers is None else execution.workers,
        cache_gib=execution.cache_gib,
        resume=True,
        fresh=run.fresh and restart_count() == 0,  # a run that torchrun restarts continues
        allow_config_change=run.allow_config_change,
        checkpoint_s=run.checkpoint_s,
        checkpoint_steps=run.checkpoint_steps,
        keep_states_epochs=run.keep_states,
        track=run.track,
        max_expected_s=None if is_agreed else MAX_UNASKED_S,
    )


def _data_changes(options: Options) -> dict[str, Any]:
    """Return the fields of `DataConfig` that the options give."""
    fields = ("split_seed", "train_images", "image_size")
    return {name: value for name in fields if (value := getattr(options, name)) is not None} | options.reading.changes()
