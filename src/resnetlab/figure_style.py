"""How figures look, and what several of them need. No torch here."""

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's palette, told apart by the colour-blind."""

SOFT = "#555555"

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "resnetlab",
}


def panels(count: int, *, tall: bool, across: int = 0, height: float = 3.4, **share: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure with its panels, row by row.

    Args:
        count: Panels that are needed; there may be some more, to fill the last row.
        tall: Stack them, for a phone.
        across: Panels in a row, all of them if 0.
        height: Of one panel, in inches.
        share: Which axes are shared, as for `Figure.subplots`.
    """
    across = 1 if tall else min(across or count, count)
    down = -(-count // across)
    width = 4.6 if tall else max(9.2, 4.6 * across)
    figure = Figure(figsize=(width, height * down + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(down, across, squeeze=False, **share).flat)


def head(axes: Axes, title: str) -> None:
    """Give a panel its title."""
    axes.set_title(title, loc="left", fontweight="bold")


def note(figure: Figure, words: Iterable[str], *, tall: bool) -> None:
    """Say above a figure how it is read."""
    figure.suptitle(("\n" if tall else "; ").join(words), fontsize=9, color=SOFT)
