"""Options that have no effect without another one."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from resnetlab.config import ConfigError


def refuse_unused(options: Any, names: Sequence[str], needed: str) -> None:
    """Raise if one of some options is given, whose effect needs another one.

    Args:
        options: The options of a command.
        names: Fields without effect; one counts as given if it has not its default.
        needed: The missing option, and where it says more, the reason.

    Raises:
        ConfigError: in one line, with all of them.
    """
    defaults = {field.name: field.default for field in fields(options)}
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) != defaults[name]]
    if given:
        verb, them = ("requires", given[0]) if len(given) == 1 else ("require", "them")
        raise ConfigError(f"{', '.join(given)} {verb} {needed}; add it, or leave {them} out")
