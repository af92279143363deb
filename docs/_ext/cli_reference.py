"""Sphinx directive `cli-reference`: every command of `resnetlab`, from the dataclasses that declare its options.

Names, types and defaults come from the fields, help texts from the docstrings below them. No option is typed by hand.
"""

import dataclasses
import importlib
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from resnetlab.cli.main import COMMANDS

METAVARS = {str: "TEXT", int: "INT", float: "FLOAT", Path: "PATH"}


@dataclasses.dataclass(frozen=True)
class Option:
    """One option or positional argument of a command."""

    name: str
    """As it is typed: `--image-size`, or `MODEL` for a positional argument."""
    metavar: str
    """The values that it takes, such as `INT` or `{fp32,bf16}`; empty for a flag."""
    help: str
    default: str
    """As it would be typed; empty where nothing is set."""
    required: bool
    positional: bool
    group: str = ""
    """The heading of its group of options; empty for those of the command itself."""


def command_options(command: str) -> tuple[str, list[Option]]:
    """Return the description of a command and its options: those of the command itself, then those of each group."""
    kind = importlib.import_module(f"resnetlab.cli.{command.replace('-', '_')}").Options
    return kind.__doc__ or "", sorted(_options(kind), key=lambda option: option.group != "")


def _options(kind: type, group: str = "") -> Iterator[Option]:
    """Yield the options that a dataclass declares, and those of its groups of options, which are dataclasses too."""
    help_texts = _field_docstrings(kind)
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        declared = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        if dataclasses.is_dataclass(declared):
            yield from _options(typing.cast("type", declared), f"{field.name.capitalize()} options")
        else:
            yield dataclasses.replace(_option(field, hint, help_texts[field.name]), group=group)


def _field_docstrings(kind: type) -> dict[str, str]:
    """Return the docstring below each field, also of inherited fields."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        analyzer = ModuleAnalyzer.for_module(base.__module__)
        for (owner, name), lines in analyzer.find_attr_docs().items():
            if owner == base.__qualname__:
                found[name] = " ".join(lines).strip()
    return found


def _option(field: dataclasses.Field, hint: Any, help_text: str) -> Option:
    kind, *marks = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
    argument = next((mark for mark in marks if hasattr(mark, "metavar") and hasattr(mark, "aliases")), None)
    positional = tyro.conf.Positional in marks
    name = (argument.name if argument else None) or field.name.replace("_", "-")
    metavar = (argument.metavar if argument else None) or _metavar(kind)
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return Option(
        name=name.upper() if positional else f"--{name}",
        metavar="" if positional else metavar,
        help=help_text,
        default="" if required else _default(field),
        required=required,
        positional=positional,
    )


def _metavar(kind: Any) -> str:
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if kind is bool:
        return ""
    if origin is typing.Literal:
        return "{" + ",".join(map(str, members)) + "}"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(_metavar(member) for member in members if member is not type(None)))
    if origin is tuple:
        return f"{_metavar(members[0])} …"
    return METAVARS.get(kind, getattr(kind, "__name__", str(kind)).upper())


def _default(field: dataclasses.Field) -> str:
    value = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]
    if value is None or value is False or value == ():
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _escape(text: str) -> str:
    """Return a help text as reStructuredText: literals stay, other markup characters are escaped."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        f"`{part}`" if index % 2 else re.sub(r"([*_|\\])", r"\\\1", part) for index, part in enumerate(parts)
    )


def command_page(command: str) -> list[str]:
    """Return the section of one command as lines of reStructuredText."""
    description, options = command_options(command)
    positionals = [option for option in options if option.positional]
    usage = " ".join(
        ["resnetlab", command, *(o.name if o.required else f"[{o.name}]" for o in positionals), "[options]"]
    )
    lines = [f".. _cli-{command}:", "", command, "-" * len(command), "", ".. code-block:: text", "", f"   {usage}", ""]
    lines += [f".. program:: resnetlab {command}", ""]
    for paragraph in re.split(r"\n\s*\n", description):
        lines += [_escape(" ".join(paragraph.split())), ""]
    group = ""
    for option in options:
        if option.group != group:
            group = option.group
            lines += [f".. rubric:: {group}", ""]
        lines += [f".. option:: {f'{option.name} {option.metavar}'.strip()}", ""]
        lines += [f"   {_escape(option.help)}"]
        if option.default:
            lines += ["", f"   Default: ``{option.default}``."]
        lines += [""]
    return lines


class CliReference(SphinxDirective):
    """Render all commands, in the order of `resnetlab --help`."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """Return one section for each command."""
        for command in COMMANDS:
            module = importlib.import_module(f"resnetlab.cli.{command.replace('-', '_')}")
            self.env.note_dependency(str(module.__file__))
        text = "\n".join(line for command in COMMANDS for line in command_page(command))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("cli-reference", CliReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
