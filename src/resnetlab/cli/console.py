"""Rich consoles of the command line, whose texts cannot drive the terminal."""

import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from resnetlab.cli.terminal import IN_TEXT, encodable, escape, unescaped

_END_OF_LINE = re.compile(" +\n")


def open_console(*, stderr: bool = False, **options: Any) -> Console:
    """Return a console on standard output or standard error, without markup, that escapes control characters.

    Args:
        stderr: Print on standard error.
        options: Other options of `rich.console.Console`.
    """
    return EscapedConsole(file=unescaped(sys.stderr if stderr else sys.stdout), **{"markup": False, **options})


class EscapedConsole(Console):
    """A console that escapes control characters in every text; only rich's own control sequences reach the output."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects. A table says itself what it cuts to the width of a terminal."""
        if any(isinstance(item, Table) for item in objects):
            options.setdefault("crop", False)
        super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as escaped `Text`. Rich calls this for strings in tables too, before it measures them."""
        return super().render_str(encodable(escape(text), self.encoding), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of an object. A `Text` is escaped before its lines are wrapped to the width.

        No line ends with the space at which it was wrapped.
        """
        if isinstance(renderable, Text) and IN_TEXT.search(renderable.plain):
            renderable = escaped_text(renderable)
        for segment in super().render(renderable, options):
            if segment.control is None and (" \n" in segment.text or IN_TEXT.search(segment.text)):
                yield Segment(_END_OF_LINE.sub("\n", escape(segment.text)), segment.style)
            else:
                yield segment


def escaped_text(text: Text) -> Text:
    """Return a copy of a text with its control characters escaped, and with its styles."""
    edges = sorted({edge for match in IN_TEXT.finditer(text.plain) for edge in match.span()})
    result = text.blank_copy()
    for part in text.divide(edges):
        result.append_text(Text(escape(part.plain), style=part.style) if IN_TEXT.fullmatch(part.plain) else part)
    return result
