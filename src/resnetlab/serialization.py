"""Conversion of frozen dataclasses to and from JSON with type checks, and `ConfigError` for invalid values."""

import contextlib
import dataclasses
import json
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Literal, TypeVar

T = TypeVar("T")
OMIT_DEFAULT = {"omit_default": True}
"""Metadata of a dataclass field that `to_json` leaves out while it has its default: a field that was added later then
does not change the files that are written without it."""


class ConfigError(ValueError):
    """An invalid value from the user. The message names the value and a valid one."""


def check(condition: bool, message: str) -> None:
    """Raise `ConfigError` with a message unless a condition holds."""
    if not condition:
        raise ConfigError(message)


def check_type(name: str, value: object, kind: Any, *, example: str) -> None:
    """Raise `ConfigError` with an example, in one line, unless an argument has a type."""
    if not isinstance(value, kind):
        names = " or ".join(part.__name__ for part in typing.get_args(kind) or (kind,))
        raise ConfigError(f"{name} must be {names}, not {reprlib.repr(value)}; for example {example}")


def one_of(name: str, value: object, kind: Any) -> None:
    """Raise `ConfigError` unless a field's value is one of the values of a `Literal`."""
    allowed = typing.get_args(kind)
    check(value in allowed, f"{name} {value!r} is unknown; choose one of: {', '.join(allowed)}")


def at_least(least: int, config: object, *names: str) -> None:
    """Raise `ConfigError` if a field of a dataclass is below `least` or infinite, or an `int` is no whole number.

    `None` passes.
    """
    kinds = {item.name: item.type for item in dataclasses.fields(typing.cast("Any", config))}
    for name in names:
        value = getattr(config, name)
        is_whole = int in (kinds[name], *typing.get_args(kinds[name]))
        is_number = isinstance(value, Integral if is_whole else Real) and not isinstance(value, bool)
        if value is None or (is_number and least <= float(value) < math.inf):
            continue
        kind = "finite and " if value == math.inf else ""
        kind = "a whole number of " if is_whole and not is_number else kind
        raise ConfigError(f"{name} must be {kind}at least {least}, not {value!r}")


def to_json(config: Any) -> dict[str, Any]:
    """Return a configuration as plain JSON values; tuples become lists. `OMIT_DEFAULT` fields may be left out."""
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    _omit_defaults(config, values)
    return values


def from_json(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return a configuration of class `kind` from JSON values; missing fields take their defaults.

    Raises:
        ConfigError: If a field is unknown, a value has the wrong type, or the class rejects it.
    """
    check(isinstance(values, Mapping), f"{kind.__name__} must be an object, not {values!r}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    check(
        not unknown,
        f"{kind.__name__} has no field {', '.join(map(repr, unknown))}; it has: {', '.join(hints)}",
    )
    return kind(**{name: _parse(f"{kind.__name__}.{name}", hints[name], value) for name, value in values.items()})


def parse_field(kind: type, name: str, value: Any) -> Any:
    """Return a JSON value with the type of field `name` of a configuration class.

    Raises:
        ConfigError: If the value has the wrong type. The class itself checks ranges.
    """
    return _parse(f"{kind.__name__}.{name}", typing.get_type_hints(kind)[name], value)


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Return each field in which two configurations of one class differ, such as `recipe.epochs: 7 -> 3`."""
    changes = []
    for item in dataclasses.fields(old):
        before, after = getattr(old, item.name), getattr(new, item.name)
        if dataclasses.is_dataclass(before) and dataclasses.is_dataclass(after):
            changes += differences(before, after, f"{prefix}{item.name}.")
        elif before != after:
            changes.append(f"{prefix}{item.name}: {before} -> {after}")
    return changes


def _omit_defaults(config: Any, values: dict[str, Any]) -> None:
    """Remove fields that are marked `OMIT_DEFAULT` and have their default, in nested dataclasses too."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.metadata.get("omit_default") and value == item.default:
            del values[item.name]
        elif dataclasses.is_dataclass(value):
            _omit_defaults(value, values[item.name])


def _parse(name: str, hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast("type", hint), value)
    origin = typing.get_origin(hint)
    if origin is dict:
        check(isinstance(value, Mapping), f"{name} must be an object, not {value!r}")
        return dict(value)
    if origin is tuple:
        return _parse_tuple(name, typing.get_args(hint), value)
    if origin in (types.UnionType, typing.Union):
        return _parse_union(name, typing.get_args(hint), value)
    if origin is Literal:
        return value  # the class checks these itself
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wrong = not isinstance(value, hint) or (hint is int and isinstance(value, bool))
    check(not wrong, f"{name} must be {hint.__name__}, not {value!r}")
    return value


def _parse_tuple(name: str, hints: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    check(isinstance(value, list | tuple), f"{name} must be a list, not {value!r}")
    if hints[-1] is Ellipsis:
        return tuple(_parse(name, hints[0], item) for item in value)
    check(len(value) == len(hints), f"{name} must have {len(hints)} values, not {len(value)}: {value!r}")
    return tuple(_parse(name, hint, item) for hint, item in zip(hints, value, strict=True))


def _parse_union(name: str, hints: tuple[Any, ...], value: Any) -> Any:
    """Return the value as the first of the types that takes it, such as `int` of `int | None`."""
    if value is None and types.NoneType in hints:
        return None
    others = [hint for hint in hints if hint is not types.NoneType]
    for hint in others[:-1]:
        with contextlib.suppress(ConfigError):
            return _parse(name, hint, value)
    return _parse(name, others[-1], value)


def replace_non_finite(value: Any) -> Any:
    """Return JSON values with `None` in place of numbers that are not finite, which JSON cannot represent."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(item) for item in value]
    return value
