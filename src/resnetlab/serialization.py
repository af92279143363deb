"""Frozen dataclasses to JSON and back, checked on the way; and the one error for values that cannot work."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A value the user gave that cannot work; the message names it and what would work."""


def check(condition: bool, message: str) -> None:
    """Raise `ConfigError` with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def one_of(name: str, value: object, kind: Any) -> None:
    """Raise `ConfigError` unless the value is among those of a `Literal`."""
    choices = typing.get_args(kind)
    check(value in choices, f"{name} {value!r} is unknown; choose one of: {', '.join(choices)}")


def to_json(config: Any) -> dict[str, Any]:
    """Turn a configuration into plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_json(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a configuration of class `kind` from JSON values; fields left out take their defaults.

    Raises:
        ConfigError: for an unknown field, a value of the wrong type, or one the class refuses.
    """
    check(isinstance(values, Mapping), f"{kind.__name__} must be an object, not {values!r}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    check(
        not unknown,
        f"{kind.__name__} has no field {', '.join(map(repr, unknown))}; it has: {', '.join(hints)}",
    )
    return kind(**{name: _parse(f"{kind.__name__}.{name}", hints[name], value) for name, value in values.items()})


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Name every field in which two configurations of one class differ, as `recipe.epochs: 7 -> 3`."""
    found = []
    for item in dataclasses.fields(old):
        before, after = getattr(old, item.name), getattr(new, item.name)
        if dataclasses.is_dataclass(before):
            found += differences(before, after, f"{prefix}{item.name}.")
        elif before != after:
            found.append(f"{prefix}{item.name}: {before} -> {after}")
    return found


def _parse(name: str, hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast("type", hint), value)
    origin = typing.get_origin(hint)
    if origin is dict:
        check(isinstance(value, Mapping), f"{name} must be an object, not {value!r}")
        return dict(value)
    if origin is tuple:
        check(isinstance(value, list | tuple), f"{name} must be a list, not {value!r}")
        return tuple(_parse(name, typing.get_args(hint)[0], item) for item in value)
    if origin in (Literal, types.UnionType):
        return value  # the class itself checks what it allows
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wrong = not isinstance(value, hint) or (hint is int and isinstance(value, bool))
    check(not wrong, f"{name} must be {hint.__name__}, not {value!r}")
    return value
