"""The style of all figures, and helpers for panels, titles and captions."""

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's palette; colour-blind readers can distinguish its colours."""

GREY = "#555555"
"""Colour of captions and other secondary text."""

MIN_RANGE_PCT = 1.0
"""Smallest range of an error axis, in %: errors of 0 are not drawn on an axis of hundredths."""

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "resnetlab",
}


LEGEND_ROW = 0.22
"""Height of one row of a legend, in inches."""


def create_panels(
    count: int, *, tall: bool, across: int = 0, height: float = 3.4, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, row by row.

    Args:
        count: Number of panels needed. The list may hold more, because the last row is complete.
        tall: Stack the panels in one column, for a phone.
        across: Panels in a row; 0 means all in one row.
        height: Height of one panel, in inches.
        sharey: Whether all panels share their y axis.
    """
    across = 1 if tall else min(across or count, count)
    down = -(-count // across)
    width = 4.6 if tall else max(9.2, 3.8 * across)  # a wider figure would have smaller letters on a page
    figure = Figure(figsize=(width, height * down + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(down, across, squeeze=False, sharey=sharey).flat)


def set_panel_title(axes: Axes, title: str) -> None:
    """Set the title of a panel."""
    axes.set_title(title, loc="left", fontweight="bold")


def add_legend_below(axes: Axes, *args: Any, ncols: int, **options: Any) -> None:
    """Add a legend below a panel and its x label: no place inside is free of curves for every study.

    Args:
        axes: The panel; its figure has `LEGEND_ROW` inches of height for each row.
        *args: Handles and labels; those of the panel's artists if not given.
        ncols: Number of columns.
        **options: Further options of `Axes.legend`.
    """
    inches = axes.figure.dpi_scale_trans
    axes.legend(
        *args,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=axes.transAxes + ScaledTranslation(-0.1, -0.5, inches),
        borderaxespad=0,
        ncols=ncols,
        fontsize=9,
        **options,
    )


def legend_columns(names: Iterable[str], most: int, *, width: float = 4.2) -> int:
    """Return how many columns of a legend fit below a panel of `width` inches, at least 1 and at most `most`."""
    column = 0.5 + 0.075 * max(map(len, names), default=0)  # a handle, and letters of 9 points
    return max(1, min(most, int(width / column)))


def add_caption(figure: Figure, sentences: Iterable[str], *, tall: bool) -> None:
    """Write above a figure how to read it."""
    figure.suptitle(("\n" if tall else "; ").join(sentences), fontsize=9, color=GREY)
