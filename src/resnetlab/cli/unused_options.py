"""The options that are given, and those of them that have no effect without another one."""

from collections.abc import Collection, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from resnetlab.config import ConfigError


def given_options(options: Any) -> dict[str, Any]:
    """Return the options of a command that have not their default, by field, those of its groups of options too."""
    given: dict[str, Any] = {}
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            given |= given_options(value)
        elif value != field.default:
            given[field.name] = value
    return given


def refuse_without_effect(options: Any, used: Collection[str], option: str) -> None:
    """Raise if options are given that change nothing in what another one prints.

    Args:
        options: The options of a command.
        used: Fields that have an effect.
        option: The other option, such as `--paper`.

    Raises:
        ConfigError: in one line, with all of them.
    """
    given = [f"--{name.replace('_', '-')}" for name in given_options(options) if name not in used]
    if given:
        verb, them = ("changes", "it") if len(given) == 1 else ("change", "them")
        raise ConfigError(f"{', '.join(given)} {verb} nothing that {option} prints; leave {them} out")


def refuse_unused(options: Any, names: Sequence[str], needed: str) -> None:
    """Raise if one of some options is given, whose effect needs another one.

    Args:
        options: The options of a command.
        names: Fields without effect.
        needed: The missing option, and where it says more, the reason.

    Raises:
        ConfigError: in one line, with all of them.
    """
    changed = given_options(options)
    given = [f"--{name.replace('_', '-')}" for name in names if name in changed]
    if given:
        verb, them = ("requires", given[0]) if len(given) == 1 else ("require", "them")
        raise ConfigError(f"{', '.join(given)} {verb} {needed}; add it, or leave {them} out")
