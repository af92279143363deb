"""The help of a command, with a usage line that fits the terminal: tyro writes it as one line of up to 108 letters."""

import io
import re
import shutil
from typing import TextIO

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
