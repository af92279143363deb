"""Error curves, as in the paper's Figure 6: errors against steps, one panel for each arm, bands over seeds."""

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnetlab.figure_style import COLOURS, add_caption, create_panels, set_panel_title
from resnetlab.study.arms import ordered_arms
from resnetlab.study.results import Run

Points = tuple[list[int], list[float]]
"""Steps and the errors at these steps."""


def plot_error_curves(runs: Sequence[Run], tall: bool) -> Figure | None:
    """Return the figure of one data set: training error dashed, validation error solid, plain networks first."""
    runs = [run for run in runs if run.epochs]
    if not runs:
        return None
    arms = ordered_arms(run.arm for run in runs)
    depths = sorted({run.depth for run in runs})
    figure, panels = create_panels(len(arms), tall=tall, across=3, sharey=True)
    for axes in panels[len(arms) :]:
        axes.set_axis_off()
    for axes, arm in zip(panels, arms, strict=False):
        for index, depth in enumerate(depths):
            group = [run for run in runs if (run.arm, run.depth) == (arm, depth)]
            colour = COLOURS[index % len(COLOURS)]
            if group:
                _plot_band(axes, [run.train_curve() for run in group], colour=colour, line="--")
                label = f"{arm}-{depth}"
                _plot_band(axes, [run.val_curve() for run in group], colour=colour, line="-", label=label)
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


def _plot_band(axes: Axes, curves: Sequence[Points], *, colour: str, line: str, label: str | None = None) -> None:
    """Plot the mean of several curves, and the band between the lowest and the highest, at the steps they share."""
    shared = sorted(set.intersection(*(set(steps) for steps, _ in curves)))
    errors_at = [dict(zip(*curve, strict=True)) for curve in curves]
    columns = [[errors[step] for errors in errors_at] for step in shared]
    axes.plot(shared, [statistics.fmean(c) for c in columns], line, color=colour, label=label, linewidth=1.6)
    if len(curves) > 1:
        lowest, highest = [min(c) for c in columns], [max(c) for c in columns]
        axes.fill_between(shared, lowest, highest, color=colour, alpha=0.15, linewidth=0)
