"""Tables for an 80-column terminal."""

from collections.abc import Iterable
from typing import Any, cast

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table

from resnetlab.cli.terminal import escape_name

UNLIMITED = 1_000_000
"""Columns of a text that is not printed on a terminal."""
MIN_NAME_WIDTH = 8
"""Columns that a name keeps if a table is wider than the terminal."""


class NameTable(Table):
    """A table in which a name stays on one line, even if it contains a line feed; no line ends with spaces.

    If it is wider than the terminal, names are cut, and numbers are not; in files and pipes nothing is cut. A console
    must print it with `crop=False`, as `open_console` does.
    """

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row; control characters of its strings are escaped."""
        super().add_row(*(escape_name(cell) if isinstance(cell, str) else cell for cell in cells), **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the segments of the table, without the spaces that fill the last column."""
        width = Measurement.get(console, options.update_width(UNLIMITED), self).maximum
        if console.is_terminal:
            width -= self._cut_names(width - options.max_width)
        wide = options.update_width(max(width, options.max_width))
        for line in Segment.split_lines(cast("Iterable[Segment]", super().__rich_console__(console, wide))):
            while line and not line[-1].text.strip(" "):
                line.pop()
            if line:
                line[-1] = Segment(line[-1].text.rstrip(" "), *line[-1][1:])
            yield from line
            yield Segment.line()

    def _cut_names(self, excess: int) -> int:
        """Narrow the columns of names by `excess`, the widest first, as far as they go; return by how much."""
        widths = {
            index: max(cell_len(str(cell)) for cell in (column.header, *column.cells))
            for index, column in enumerate(self.columns)
            if column.justify == "left"
        }
        natural = dict(widths)
        cut = 0
        while cut < excess and widths and max(widths.values()) > MIN_NAME_WIDTH:
            widths[max(widths, key=widths.__getitem__)] -= 1
            cut += 1
        for index, width in widths.items():
            if width < natural[index]:
                self.columns[index].max_width = width
        return cut


def table(*columns: str, left: int = 1) -> Table:
    """Return an empty table; the first `left` columns hold words and align left, the others align right."""
    result = NameTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for index, name in enumerate(columns):
        result.add_column(name, justify="left" if index < left else "right", no_wrap=True)
    return result
