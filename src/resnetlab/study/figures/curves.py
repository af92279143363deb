"""The paper's Figure 6: errors against steps, an arm a panel, the band over seeds. No torch here."""

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnetlab.figure_style import COLOURS, add_caption, create_panels, set_panel_title
from resnetlab.study.arms import ordered_arms
from resnetlab.study.results import Run

Points = tuple[list[int], list[float]]


def error_curves(runs: Sequence[Run], tall: bool) -> Figure | None:
    """Return the figure of one data set: a panel an arm, plain first; dashed training error, solid validation."""
    runs = [run for run in runs if run.epochs]
    if not runs:
        return None
    arms = ordered_arms(run.arm for run in runs)
    depths = sorted({run.depth for run in runs})
    figure, axes_of = create_panels(len(arms), tall=tall, across=3, sharey=True)
    for axes in axes_of[len(arms) :]:
        axes.set_axis_off()
    for axes, arm in zip(axes_of, arms, strict=False):
        for index, depth in enumerate(depths):
            group = [run for run in runs if (run.arm, run.depth) == (arm, depth)]
            colour = COLOURS[index % len(COLOURS)]
            if group:
                _band(axes, [run.curve() for run in group], colour, "--", None)
                _band(axes, [run.validation() for run in group], colour, "-", f"{arm}-{depth}")
        set_panel_title(axes, f"{arm} networks")
        axes.set_xlabel("steps")
        axes.set_ylabel("error, %")
        axes.set_ylim(0, 100)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y", alpha=0.25)
        axes.legend(frameon=False, loc="best")
    seeds = len({run.seed for run in runs})
    band = f"line: mean of {seeds} seeds, band: lowest to highest" if seeds > 1 else "one seed"
    add_caption(figure, ("dashed: training error, solid: validation error", band), tall=tall)
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
