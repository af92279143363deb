"""Fields of a recipe as text: `FIELD=VALUE` on the command line, and recipes in TOML files."""

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from resnetlab.config import ConfigError, ModelConfig, Recipe
from resnetlab.extension import did_you_mean
from resnetlab.serialization import parse_field
from resnetlab.training.recipes import change_recipe, recipe

SUFFIX = ".toml"
BASE = "base"
"""Key of a recipe file that names the recipe whose values hold where the file has none."""


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Return the fields of `Recipe` in settings such as `weight_decay=5e-4` and `milestones=[0.5, 0.75]`.

    A value is written as in TOML; text needs no quotes, and `none` is no value.

    Raises:
        ConfigError: If a setting is not `FIELD=VALUE`, a field is unknown or set twice, or a value has the wrong type.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        field, equals, text = setting.partition("=")
        if not equals or not text.strip():
            raise ConfigError(f"--set {setting}: write FIELD=VALUE, such as weight_decay=5e-4")
        if field in values:
            raise ConfigError(f"--set gives {field} twice")
        values[field] = _parse_value(text.strip())
    return typed_fields(values, "--set")


def recipe_changes(options: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Return the fields of `Recipe` that options of their own name (`--lr 0.1`) and `--set` give together.

    Args:
        options: Fields and their values; `None` for an option that is not given.
        settings: The arguments of `--set`, as for `parse_settings`.

    Raises:
        ConfigError: If a field is given twice, or a setting is invalid.
    """
    given = {name: value for name, value in options.items() if value is not None}
    values = parse_settings(settings)
    for name in given:
        if name in values:
            raise ConfigError(f"--{name.replace('_', '-')} and --set {name} give the same field; use one of them")
    return {**given, **values}


def named_recipe(name: str, model: ModelConfig | None = None) -> Recipe:
    """Return the recipe of a name, or of a file if the name ends with `.toml`, adapted to a network if one is given.

    Raises:
        ConfigError: If the name is unknown, or the file is not a recipe.
    """
    return read_recipe_file(Path(name), model) if name.endswith(SUFFIX) else recipe(name, model)


def base_name(name: str) -> str | None:
    """Return the recipe that a recipe is or, if it is a file, starts from; `None` if the file starts from none.

    Raises:
        ConfigError: If the file cannot be read.
    """
    return _read_toml(Path(name)).get(BASE) if name.endswith(SUFFIX) else name


def read_recipe_file(path: Path, model: ModelConfig | None = None) -> Recipe:
    """Return the recipe of a TOML file: fields of `Recipe`, and `base` with the name of a recipe to start from.

    Fields that the file does not name have the value of `base`, or else the default of `Recipe`. The recipe's name is
    that of the file.

    Raises:
        ConfigError: If the file cannot be read, a field or the base is unknown, or a value is invalid.
    """
    values = _read_toml(path)
    start = values.pop(BASE, None)
    changes = typed_fields(values, str(path))
    try:
        base = Recipe() if start is None else recipe(str(start), model)
        return dataclasses.replace(change_recipe(base, changes), name=changes.get("name", path.stem))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: the recipe cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a recipe in TOML ({error})") from error


def typed_fields(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values of fields of `Recipe` with the fields' types.

    Args:
        values: Fields and their values, as JSON or TOML has them.
        where: Where they are given, for messages.

    Raises:
        ConfigError: If a field is unknown, or a value has the wrong type. Ranges are checked by the recipe itself.
    """
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in values:
        if name not in known:
            hint = did_you_mean(name, known) or f"; a recipe has: {', '.join(known)}"
            raise ConfigError(f"{where}: a recipe has no field {name}{hint}")
    # One at a time: fields that are checked together, such as train_sizes and crop, may be given in two places.
    try:
        return {name: parse_field(Recipe, name, value) for name, value in values.items()}
    except ConfigError as error:
        raise ConfigError(f"{where}: {str(error).removeprefix('Recipe.')}") from None


def _parse_value(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
