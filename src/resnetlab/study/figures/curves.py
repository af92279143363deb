"""Error curves, as in the paper's Figure 6: errors against steps, one panel for each arm, bands over seeds."""

import math
import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from resnetlab.figure_style import LEGEND_ROW, add_caption, add_legend_below, create_panels, set_panel_title
from resnetlab.study.arms import ordered_arms
from resnetlab.study.figures.colours import network_colour
from resnetlab.study.figures.selection import over_seeds
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
    top = highest_error(runs)
    columns = 3 if len(arms) == 1 and not tall else 1
    height = 3.2 + LEGEND_ROW * -(-len(depths) // columns)
    figure, panels = create_panels(len(arms), tall=tall, across=3, height=height, sharey=True)
    for axes in panels[len(arms) :]:
        axes.set_axis_off()
    groups = []
    for axes, arm in zip(panels, arms, strict=False):
        entries = {}
        for depth in depths:
            group = [run for run in runs if (run.arm, run.depth) == (arm, depth)]
            colour = network_colour(arm, depth, depths)
            if group:
                groups.append(group)
                dashed = _plot_band(axes, [run.train_curve() for run in group], colour=colour, line="--")
                solid = _plot_band(axes, [run.val_curve() for run in group], colour=colour, line="-")
                entries[f"{arm}-{depth}"] = (dashed, solid)
        set_panel_title(axes, f"{arm} networks")
        axes.set_xlabel("steps")
        axes.set_ylabel("error, %")
        axes.set_ylim(-0.02 * top, 1.02 * top)  # lines at both ends are drawn in full width
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y", alpha=0.25)
        add_legend_below(
            axes,
            list(entries.values()),
            list(entries),
            ncols=columns,
            handler_map={tuple: HandlerTuple(ndivide=None)},
            handlelength=5,
        )
    band = f"line: {over_seeds(groups)}, band: lowest to highest"
    several = any(len(group) > 1 for group in groups)
    add_caption(figure, ("dashed: training error, solid: validation error", band if several else "one seed"), tall=tall)
    return figure


def highest_error(runs: Sequence[Run]) -> int:
    """Return the upper end of the axis in %: twice the highest final error, in tens, from 20 to 100.

    The first steps of every network err near chance; the ends, which a study compares, would else be close together.
    """
    ends = [errors[-1] for run in runs for _, errors in (run.train_curve(), run.val_curve()) if errors]
    return min(100, max(20, 10 * math.ceil(2 * max(ends, default=50) / 10)))


def _plot_band(axes: Axes, curves: Sequence[Points], *, colour: str, line: str) -> Line2D:
    """Plot the mean of several curves, and the band between the lowest and the highest, at the steps they share."""
    shared = sorted(set.intersection(*(set(steps) for steps, _ in curves)))
    errors_at = [dict(zip(*curve, strict=True)) for curve in curves]
    columns = [[errors[step] for errors in errors_at] for step in shared]
    (mean,) = axes.plot(shared, [statistics.fmean(c) for c in columns], line, color=colour, linewidth=1.6)
    if len(curves) > 1:
        lowest, highest = [min(c) for c in columns], [max(c) for c in columns]
        axes.fill_between(shared, lowest, highest, color=colour, alpha=0.15, linewidth=0)
    return mean
