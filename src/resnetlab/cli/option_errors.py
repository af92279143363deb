"""Options of a command: lists with commas, and errors that name the option, its value and what it must be."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from resnetlab.extension import did_you_mean

SYNONYMS = {
    "amp": "precision",
    "checkpoint": "from",
    "cuda": "device",
    "gpu": "device",
    "init": "from",
    "learning-rate": "lr",
    "num-epochs": "epochs",
    "num-steps": "steps",
    "output-dir": "out",
    "pretrained": "from",
    "weights": "from",
}
"""Names of options in other tools, and the option here that does the same."""


def option_types(kind: type) -> dict[str, Any]:
    """Return the type of each option of a command by its name on the command line, such as `batch-size`.

    Positional arguments are left out, and `None` is left out of the types.
    """
    from tyro.conf import Positional

    result = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        value_type, markers = unwrap_hint(hint)
        if Positional in markers:
            continue
        if dataclasses.is_dataclass(value_type):  # a group of options
            result |= option_types(typing.cast("type", value_type))
            continue
        renamed = next((marker.name for marker in markers if getattr(marker, "name", None)), None)
        result[renamed or name.replace("_", "-")] = value_type
    return result


def unwrap_hint(hint: Any) -> tuple[Any, list[Any]]:
    """Return the type of an option without `None` and without tyro's markers, and the markers."""
    markers: list[Any] = []
    if typing.get_origin(hint) is typing.Annotated:
        hint, *markers = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        hint = parts[0] if len(parts) == 1 else hint
    return hint, markers


def split_lists(kind: type, words: Sequence[str]) -> list[str]:
    """Split the values of options that take several at their commas: `--depths 20,56` is `--depths 20 56`.

    A text stays whole if it is an existing path, a pattern of paths, a field with its value, or has spaces, as names
    of classes have.
    """
    lists = {
        f"--{name}": typing.get_args(hint)[0]
        for name, hint in option_types(kind).items()
        if typing.get_origin(hint) is tuple
    }
    result: list[str] = []
    item: Any = None
    for word in words:
        option, equals, value = word.partition("=")
        if option.startswith("--"):
            option = option.replace("_", "-")
            item = lists.get(option)
            if equals and _is_splittable(item, value):
                result += [option, *_split(value)]
                continue
        elif _is_splittable(item, word):
            result += _split(word)
            continue
        result.append(word)
    return result


def describe_invalid(kind: type, words: Sequence[str]) -> str | None:
    """Return what is wrong with the first invalid value of an option, such as `--lr must be a number, not 'abc'`.

    `None` if every value has the type of its option.
    """
    hints = option_types(kind)
    for option, values in _option_values(words):
        hint = hints.get(option)
        if hint is None or hint is bool:
            continue
        is_list = typing.get_origin(hint) is tuple
        item = typing.get_args(hint)[0] if is_list else hint
        if not values and not is_list:
            return f"--{option} has no value; it must be {_describe(item)}"
        for value in values if is_list else values[:1]:
            if not _is_valid(item, value):
                return f"--{option} must be {_describe(item, plural=is_list)}, not {value!r}"
    return None


def suggest_option(kind: type, word: str) -> str:
    """Return `; did you mean --OPTION?` for an unknown word, or how to set a field of the recipe; empty if neither.

    Args:
        kind: The dataclass that declares the options.
        word: The unknown word, such as `--batchsize=3`; or `photos`, which a command without arguments takes by --data.
    """
    name = word.partition("=")[0].lstrip("-").replace("_", "-")
    known = list(option_types(kind))
    if not word.startswith("-"):
        takes_options_only = all(field.default is not dataclasses.MISSING for field in dataclasses.fields(kind))
        return f"; did you mean --data {word}?" if "data" in known and takes_options_only else ""
    if SYNONYMS.get(name) in known:
        return f"; did you mean --{SYNONYMS[name]}?"
    if "set" in known:
        from resnetlab.config import Recipe

        field = name.replace("-", "_")
        if field in {field.name for field in dataclasses.fields(Recipe)}:
            return f"; it is a field of the recipe: --set {field}=…"
    return did_you_mean(name, known).replace("mean ", "mean --")


def _option_values(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each option without its dashes, and the words up to the next option."""
    option, values = None, []
    for word in words:
        if word.startswith("--"):
            if option is not None:
                yield option, values
            name, equals, value = word.removeprefix("--").partition("=")
            option, values = name.replace("_", "-"), [value] if equals else []
        else:
            values.append(word)
    if option is not None:
        yield option, values


def _is_valid(hint: Any, value: str) -> bool:
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if hint in (int, float):
        try:
            hint(value)
        except ValueError:
            return False
    return True


def _is_splittable(item: Any, value: str) -> bool:
    if item is None or "," not in value:
        return False
    return item in (int, float) or not (re.search(r"[\s/=*?{}\[\]]", value) or Path(value).exists())


def _describe(hint: Any, *, plural: bool = False) -> str:
    if typing.get_origin(hint) is Literal:
        *others, last = typing.get_args(hint)
        return f"{', '.join(others)} or {last}" if others else last
    words = {int: "whole number", float: "number", Path: "path"}.get(hint, "text")
    return f"{words}s" if plural else f"a {words}"


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]
