"""The help of a command, with lines that fit the terminal.

tyro writes the usage line as one of up to 108 letters, and breaks a description where its docstring in the source does.
"""

import ast
import dataclasses
import inspect
import io
import itertools
import re
import shutil
import textwrap
import typing
from pathlib import Path
from typing import Annotated, TextIO

from resnetlab.cli.option_errors import unwrap_hint

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
INDENT = " " * 7
"""Start of each line after the first."""


class HelpText(io.StringIO):
    """Collects what tyro prints for a terminal; colours and letters are those that the terminal can show."""

    def __init__(self, terminal: TextIO) -> None:
        super().__init__()
        self._terminal = terminal

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]  # of StringIO it is no property
        """The encoding of the terminal: tyro prints boxes where it is UTF-8."""
        return self._terminal.encoding

    def isatty(self) -> bool:
        """Return whether the text ends up in a terminal: tyro colours it there."""
        return self._terminal.isatty()

    def print(self) -> None:
        """Print the collected text, its first line folded to the terminal's width, 80 columns at most."""
        usage, newline, rest = self.getvalue().partition("\n")
        width = min(shutil.get_terminal_size().columns, 80)
        print(f"{fold_usage(usage, width)}{newline}{rest}", end="", file=self._terminal)


def join_description_lines(kind: type) -> None:
    """Make the help of each option of a dataclass its docstring as one line a paragraph, which tyro then wraps.

    Its groups of options, which are dataclasses too, and its bases are changed as well.
    """
    import tyro

    hints = typing.get_type_hints(kind, include_extras=True)
    for hint in hints.values():
        group, _ = unwrap_hint(hint)
        if dataclasses.is_dataclass(group):
            join_description_lines(typing.cast("type", group))
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for declaring in (base for base in kind.__mro__ if dataclasses.is_dataclass(base)):
        for name, docstring in _field_docstrings(declaring).items():
            text = "\n\n".join(" ".join(paragraph.split()) for paragraph in docstring.split("\n\n"))
            argument = tyro.conf.arg(
                help=text, help_behavior_hint=_default_text(fields[name]), metavar=_list_metavar(hints[name])
            )
            declaring.__annotations__[name] = Annotated[hints[name], argument]


def _list_metavar(hint: typing.Any) -> str | None:
    """Return the values of an option that takes several, such as `INT [INT ...]`; `None` for other options."""
    from tyro.conf import Positional

    kind, markers = unwrap_hint(hint)
    if Positional in markers or typing.get_origin(kind) is not tuple:
        return None
    name = {int: "INT", float: "FLOAT", Path: "PATH"}.get(typing.get_args(kind)[0], "STR")
    return f"{name} [{name} ...]"


def _default_text(field: "dataclasses.Field[typing.Any]") -> str | None:
    """Return the words on a default: none for an empty one, which says nothing; `None` for those of tyro."""
    if field.default is dataclasses.MISSING:
        return "(required)" if field.default_factory is dataclasses.MISSING else None
    return "" if field.default is None or field.default is False or field.default == () else None


def _field_docstrings(kind: type) -> dict[str, str]:
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # installed without its source
        return {}
    (definition,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def fold_usage(usage: str, width: int) -> str:
    """Return a line as lines of at most `width` letters, broken at spaces outside brackets; colours have no width."""
    lines = [""]
    for word in re.split(r" (?![^\[\]]*\])", COLOUR.sub(lambda code: code[0].replace("[", "\0"), usage)):
        line = f"{lines[-1]} {word}" if lines[-1] else word
        if len(re.sub(r"\x1b\0[0-9;]*m", "", line)) <= width or not lines[-1]:
            lines[-1] = line
        else:
            lines.append(f"{INDENT}{word}")
    return "\n".join(lines).replace("\0", "[")
