"""The paper's Figure 6 from records: errors against steps, plain left, residual right, the band over seeds. No torch."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnetlab.study.results import Run

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's palette, told apart by the colour-blind; one colour a depth, shallow to deep."""

STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "resnetlab"}

Points = tuple[list[int], list[float]]


def figure_names(runs: Sequence[Run]) -> list[str]:
    """Return the names of the figures that `draw` makes for these runs, one for each data set with a curve."""
    return [f"training-{data}" for data in sorted({run.data for run in runs if run.epochs})]


def draw(runs: Sequence[Run], folder: Path) -> list[str]:
    """Draw every figure as PNG and SVG into `folder`; return their names, without ending."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    names = figure_names(runs)
    for name in names:
        data = name.removeprefix("training-")
        with mpl.rc_context(STYLE):
            figure = training_figure([run for run in runs if run.data == data and run.epochs])
            figure.savefig(folder / f"{name}.png", dpi=160)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})  # the same records, the same bytes
    return names


def training_figure(runs: Sequence[Run]) -> Figure:
    """Return the figure of one data set: a panel an arm, plain first; dashed training error, solid validation."""
    arms = sorted({run.arm for run in runs})
    depths = sorted({run.depth for run in runs})
    figure = Figure(figsize=(4.6 * len(arms), 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
    for axes, arm in zip(panels, arms, strict=True):
        for index, depth in enumerate(depths):
            group = [run for run in runs if (run.arm, run.depth) == (arm, depth)]
            colour = COLOURS[index % len(COLOURS)]
            if group:
                _band(axes, [run.curve() for run in group], colour, "--", None)
                _band(axes, [run.validation() for run in group], colour, "-", f"{arm}-{depth}")
        axes.set_title(f"{arm} networks", loc="left", fontweight="bold")
        axes.set_xlabel("steps")
        axes.set_ylim(0, 100)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y", alpha=0.25)
        axes.legend(frameon=False, loc="best")
    panels[0].set_ylabel("error, %")
    seeds = len({run.seed for run in runs})
    band = f"line: mean of {seeds} seeds, band: lowest to highest" if seeds > 1 else "one seed"
    figure.suptitle(f"dashed: training error, solid: validation error; {band}", fontsize=9, color="#555555")
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
