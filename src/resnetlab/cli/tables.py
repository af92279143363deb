"""Tables for an 80-column terminal."""

from rich import box
from rich.table import Table


def table(*columns: str, left: int = 1) -> Table:
    """Return an empty table; the first `left` columns hold words and align left, the others align right."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for index, name in enumerate(columns):
        result.add_column(name, justify="left" if index < left else "right", no_wrap=True)
    return result
