"""Tables for an 80-column terminal."""

from collections.abc import Iterable
from typing import Any, cast

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table

from resnetlab.cli.terminal import escape_name


class NameTable(Table):
    """A table in which a name stays on one line, even if it contains a line feed; no line ends with spaces."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row; control characters of its strings are escaped."""
        super().add_row(*(escape_name(cell) if isinstance(cell, str) else cell for cell in cells), **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the segments of the table, without the spaces that fill the last column."""
        for line in Segment.split_lines(cast("Iterable[Segment]", super().__rich_console__(console, options))):
            while line and not line[-1].text.strip(" "):
                line.pop()
            if line:
                line[-1] = Segment(line[-1].text.rstrip(" "), *line[-1][1:])
            yield from line
            yield Segment.line()


def table(*columns: str, left: int = 1) -> Table:
    """Return an empty table; the first `left` columns hold words and align left, the others align right."""
    result = NameTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for index, name in enumerate(columns):
        result.add_column(name, justify="left" if index < left else "right", no_wrap=True)
    return result
