"""Error curves, as in the paper's Figure 6: errors against steps, one panel for each arm, bands over seeds."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence

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
                dashed = _plot_network(axes, group, Run.train_curve, colour=colour, line="--")
                solid = _plot_network(axes, group, Run.val_curve, colour=colour, line="-")
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
    sentences = ["dashed: training error, solid: validation error", *_line_sentences(groups)]
    add_caption(figure, sentences, tall=tall)
    return figure


def _line_sentences(groups: Sequence[Sequence[Run]]) -> Iterator[str]:
    """Yield what a line stands for; the groups are the runs of each network."""
    finished = [done for group in groups if (done := [run for run in group if run.status == "done"])]
    if any(len(done) > 1 for done in finished):
        yield f"line: {over_seeds(finished)}, band: lowest to highest"
    elif finished:
        yield "one seed"
    if any(map(has_thin_lines, groups)):
        yield "thin: one run"


def highest_error(runs: Sequence[Run]) -> int:
    """Return the upper end of the axis in %: twice the highest final error, in tens, from 20 to 100.

    The first steps of every network err near chance; the ends, which a study compares, would else be close together.
    """
    ends = [errors[-1] for run in runs for _, errors in (run.train_curve(), run.val_curve()) if errors]
    return min(100, max(20, 10 * math.ceil(2 * max(ends, default=50) / 10)))


def has_thin_lines(runs: Sequence[Run]) -> bool:
    """Return whether some curves of one network are drawn for one run alone."""
    return any(_single_curves(runs, curve) for curve in (Run.train_curve, Run.val_curve))


def _single_curves(runs: Sequence[Run], curve: Callable[[Run], Points]) -> list[Points]:
    """Return the curves of runs that did not finish, and the steps of finished ones that the others do not have.

    In a mean with them, a run that ended in NaN or stopped early would cut the curves of all seeds.
    """
    finished = [curve(run) for run in runs if run.status == "done"]
    shared = _shared_steps(finished)
    found = [curve(run) for run in runs if run.status != "done"]
    for steps, errors in finished:
        start = steps.index(shared[-1]) if shared else 0
        if steps[start + 1 :] or not shared:
            found.append((steps[start:], errors[start:]))
    return [points for points in found if points[0]]


def _shared_steps(curves: Sequence[Points]) -> list[int]:
    return sorted(set.intersection(*(set(steps) for steps, _ in curves))) if curves else []


def _plot_network(axes: Axes, runs: Sequence[Run], curve: Callable[[Run], Points], *, colour: str, line: str) -> Line2D:
    """Plot the curves of one network over seeds, and return the line for the legend."""
    finished = [curve(run) for run in runs if run.status == "done"]
    lines = [_plot_band(axes, finished, colour=colour, line=line)] if _shared_steps(finished) else []
    for steps, errors in _single_curves(runs, curve):
        marker = "." if len(steps) == 1 else ""  # a line of one point is invisible
        lines += axes.plot(steps, errors, line, color=colour, linewidth=0.8, marker=marker)
    return lines[0]


def _plot_band(axes: Axes, curves: Sequence[Points], *, colour: str, line: str) -> Line2D:
    """Plot the mean of several curves, and the band between the lowest and the highest, at the steps they share."""
    shared = _shared_steps(curves)
    errors_at = [dict(zip(*curve, strict=True)) for curve in curves]
    columns = [[errors[step] for errors in errors_at] for step in shared]
    (mean,) = axes.plot(shared, [statistics.fmean(c) for c in columns], line, color=colour, linewidth=1.6)
    if len(curves) > 1:
        lowest, highest = [min(c) for c in columns], [max(c) for c in columns]
        axes.fill_between(shared, lowest, highest, color=colour, alpha=0.15, linewidth=0)
    return mean
