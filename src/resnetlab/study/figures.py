"""The paper's Figure 6 from records: errors against steps, an arm a panel, the band over seeds. No torch."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnetlab.study.results import Run

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's palette, told apart by the colour-blind; one colour a depth, shallow to deep."""

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "resnetlab",
}

Points = tuple[list[int], list[float]]


def draw(runs: Sequence[Run], folder: Path) -> dict[str, dict[str, Path]]:
    """Draw each data set's training figure into `folder` as PNG and SVG, and for phones with its panels stacked.

    Returns:
        Data set to the SVG files `wide` and `tall` (for a phone).
    """
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, Path]] = {}
    for data in sorted({run.data for run in runs if run.epochs}):
        shown = [run for run in runs if run.data == data and run.epochs]
        files[data] = {}
        for form, suffix in (("wide", ""), ("tall", "-tall")):
            stem = f"training-{data}{suffix}"
            with mpl.rc_context(STYLE):
                figure = training_figure(shown, tall=form == "tall")
                if form == "wide":
                    figure.savefig(folder / f"{stem}.png", dpi=160)
                figure.savefig(folder / f"{stem}.svg", metadata={"Date": None})  # same records, same bytes
            files[data][form] = folder / f"{stem}.svg"
    return files


def training_figure(runs: Sequence[Run], *, tall: bool = False) -> Figure:
    """Return the figure of one data set: a panel an arm, plain first; dashed training error, solid validation."""
    arms = sorted({run.arm for run in runs})
    depths = sorted({run.depth for run in runs})
    across, down = (1, len(arms)) if tall else (len(arms), 1)
    figure = Figure(figsize=(4.6 * across, 3.4 * down + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(down, across, sharey=True, squeeze=False).flat
    for axes, arm in zip(panels, arms, strict=True):
        for index, depth in enumerate(depths):
            group = [run for run in runs if (run.arm, run.depth) == (arm, depth)]
            colour = COLOURS[index % len(COLOURS)]
            if group:
                _band(axes, [run.curve() for run in group], colour, "--", None)
                _band(axes, [run.validation() for run in group], colour, "-", f"{arm}-{depth}")
        axes.set_title(f"{arm} networks", loc="left", fontweight="bold")
        axes.set_xlabel("steps")
        if tall or axes is figure.axes[0]:
            axes.set_ylabel("error, %")
        axes.set_ylim(0, 100)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y", alpha=0.25)
        axes.legend(frameon=False, loc="best")
    seeds = len({run.seed for run in runs})
    band = f"line: mean of {seeds} seeds, band: lowest to highest" if seeds > 1 else "one seed"
    separator = "\n" if tall else "; "
    title = f"dashed: training error, solid: validation error{separator}{band}"
    figure.suptitle(title, fontsize=9, color="#555555")
    return figure


def _band(axes: Axes, curves: Sequence[Points], colour: str, line: str, label: str | None) -> None:
    """Draw the mean of several runs' curves, and the band between their lowest and highest."""
    shared = sorted(set.intersection(*(set(steps) for steps, _ in curves)))
    tables = [dict(zip(*curve, strict=True)) for curve in curves]
    columns = [[table[step] for table in tables] for step in shared]
    axes.plot(shared, [statistics.fmean(c) for c in columns], line, color=colour, label=label, linewidth=1.6)
    if len(curves) > 1:
        axes.fill_between(
            shared, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.15, linewidth=0
        )
