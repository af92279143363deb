"""Gradient norms as heat maps: layer by step, one panel for each network, all on one fixed scale of colours."""

import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from resnetlab.figure_style import add_caption, create_panels, set_panel_title
from resnetlab.study.arms import ordered_arms
from resnetlab.study.figures.selection import main_path, over_seeds, recorded_networks
from resnetlab.study.results import Run

MIN_GRAD_NORM = 1e-12
"""Lower limit of the gradient norms in a heat map; smaller values get its colour."""

COLOUR_LIMITS = (-8.0, 4.0)
"""Powers of ten of the gradient norms between which colours change, the same in every figure.

Norms of networks that learn lie between -4 and 2 (the default study and the presets on digits), in the middle of the
colours. With limits from the data the lowest norm of a healthy network would be as dark as a gradient that vanishes.
"""

COLOUR_TICKS = {-8: "10⁻⁸ or less", -6: "10⁻⁶", -4: "10⁻⁴", -2: "10⁻²", 0: "1", 2: "10²", 4: "10⁴ or more"}

ENDED_COLOUR = "#eeeeee"
"""Steps after the end of a run."""


def plot_gradients(runs: Sequence[Run], tall: bool) -> Figure | None:
    """Return heat maps of gradient norms: one row of panels for each depth, one column for each arm.

    The first layer is at the bottom of a panel. A cell is the median over seeds; cells that are not finite are crossed
    out. With more than two arms only the deepest networks are drawn.
    """
    runs = recorded_networks(runs)
    maps = gradient_maps(runs)
    if not maps:
        return None
    across = 2 if len({arm for _, arm in maps}) == 2 else 3
    figure, panels = create_panels(len(maps), tall=tall, across=across, height=2.5)
    colours = Normalize(*COLOUR_LIMITS)
    edges = {cell: _cell_edges(steps, width=_cell_width(maps.values())) for cell, (steps, _) in maps.items()}
    left, right = min(edge[0] for edge in edges.values()), max(edge[-1] for edge in edges.values())
    for axes, ((depth, arm), (_, values)) in zip(panels, maps.items(), strict=False):
        columns = edges[depth, arm]
        axes.pcolormesh(columns, np.arange(len(values) + 1) + 0.5, values, norm=colours, rasterized=True)
        axes.set_facecolor(ENDED_COLOUR)
        if not np.isfinite(values).all():
            _cross_out(axes, columns, height=len(values))
        set_panel_title(axes, f"{arm}-{depth}")
        axes.set_xlim(left, right)
        axes.set_xlabel("step")
        axes.set_ylabel("convolution")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    bar = figure.colorbar(ScalarMappable(colours), ax=panels, shrink=0.9, pad=0.02, extend="both")
    bar.set_ticks(list(COLOUR_TICKS), labels=list(COLOUR_TICKS.values()))
    bar.set_label("gradient norm")
    groups = [[run for run in runs if (run.depth, run.arm) == cell] for cell in maps]
    add_caption(figure, ("norm of the gradient of each convolution's weights", over_seeds(groups, "median")), tall=tall)
    return figure


def gradient_maps(runs: Sequence[Run]) -> dict[tuple[int, str], tuple[list[int], np.ndarray]]:
    """Return the map of each network that has one, by depth and arm, in the order of the panels."""
    cells = [(depth, arm) for depth in sorted({run.depth for run in runs}) for arm in ordered_arms(r.arm for r in runs)]
    grouped = {cell: [run for run in runs if (run.depth, run.arm) == cell] for cell in cells}
    maps = {cell: gradient_map(group) for cell, group in grouped.items() if group}
    return {cell: (steps, values) for cell, (steps, values) in maps.items() if steps}


def gradient_map(runs: Sequence[Run]) -> tuple[list[int], np.ndarray]:
    """Return the steps that all runs recorded, and log10 of the gradient norm, median over runs: (layers, steps).

    Only convolutions on the main path have a row. Values that are not finite are NaN.
    """
    stats_at = [{stats["step"]: stats for stats in run.layer_stats} for run in runs]
    steps = sorted(set.intersection(*(set(by_step) for by_step in stats_at)))
    columns = []
    for step in steps:
        rows = main_path(stats_at[0][step])
        columns.append([_log_median(by_step[step]["grad_norm"][row] for by_step in stats_at) for row in rows])
    return steps, np.array(columns).T


def _cross_out(axes: Axes, columns: np.ndarray, *, height: int) -> None:
    """Hatch the recorded steps behind the cells; it shows where a cell has no value."""
    corner, width = (columns[0], 0.5), columns[-1] - columns[0]
    axes.add_patch(Rectangle(corner, width, height, facecolor="#dddddd", edgecolor="#999999", hatch="xx", zorder=0))


def _log_median(values: Iterable[float | None]) -> float:
    """Return log10 of the median; `None` counts as infinite, and a median that is not finite becomes NaN."""
    logs = [math.inf if value is None else math.log10(max(value, MIN_GRAD_NORM)) for value in values]
    median = statistics.median(logs)
    return median if math.isfinite(median) else math.nan


def _cell_width(maps: Iterable[tuple[list[int], np.ndarray]]) -> float:
    """Return the largest distance of two recorded steps, the width of the only cell of a run that ended early."""
    return float(max((b - a for steps, _ in maps for a, b in pairwise(steps)), default=1))


def _cell_edges(steps: Sequence[int], *, width: float) -> np.ndarray:
    """Return the left edges of the columns of all steps, and the right edge of the last one."""
    if len(steps) == 1:
        return np.array([steps[0] - width / 2, steps[0] + width / 2])
    middles = (np.array(steps[:-1]) + np.array(steps[1:])) / 2
    return np.concatenate([[2 * steps[0] - middles[0]], middles, [2 * steps[-1] - middles[-1]]])
