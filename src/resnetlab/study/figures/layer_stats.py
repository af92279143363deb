"""Figures of layer statistics: gradient norms as heat maps (layer by step), and the paper's Figure 7."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnetlab.figure_style import COLOURS, GREY, add_caption, create_panels, set_panel_title
from resnetlab.study.arms import ordered_arms
from resnetlab.study.results import Run

MIN_GRAD_NORM = 1e-12
"""Lower limit of the gradient norms in a heat map; smaller values get its colour."""

LINE_STYLES = {"plain": "--"}
"""Plain networks are dashed, as in the paper's Figure 7."""


def plot_gradients(runs: Sequence[Run], tall: bool) -> Figure | None:
    """Return heat maps of gradient norms: one row of panels for each depth, one column for each arm.

    The first layer is at the bottom of a panel. A cell is the median over seeds; cells that are not finite are crossed
    out. With more than two arms only the deepest networks are drawn.
    """
    runs = _with_layer_stats(runs)
    cells = [(depth, arm) for depth in sorted({run.depth for run in runs}) for arm in ordered_arms(r.arm for r in runs)]
    grouped = {cell: group for cell in cells if (group := [run for run in runs if (run.depth, run.arm) == cell])}
    if not grouped:
        return None
    across = 2 if len({arm for _, arm in grouped}) == 2 else 3
    figure, panels = create_panels(len(grouped), tall=tall, across=across, height=2.5)
    maps = {cell: gradient_map(group) for cell, group in grouped.items()}
    finite = np.concatenate([values[np.isfinite(values)] for _, values in maps.values()])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    colours = Normalize(low, max(high, low + 1))
    for axes, ((depth, arm), (steps, values)) in zip(panels, maps.items(), strict=False):
        axes.pcolormesh(_cell_edges(steps), np.arange(len(values) + 1) + 0.5, values, norm=colours, rasterized=True)
        axes.set_facecolor("#dddddd")
        if not np.isfinite(values).all():
            axes.patch.set(hatch="xx", edgecolor="#999999")
        set_panel_title(axes, f"{arm}-{depth}")
        axes.set_xlabel("step")
        axes.set_ylabel("convolution")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    bar = figure.colorbar(ScalarMappable(colours), ax=panels, shrink=0.8, pad=0.02)
    bar.set_label("gradient norm, power of ten")
    seeds = len({run.seed for run in runs})
    over = f"median of {seeds} seeds" if seeds > 1 else "one seed"
    add_caption(figure, ("norm of the gradient of each convolution's weights", over), tall=tall)
    return figure


def gradient_map(runs: Sequence[Run]) -> tuple[list[int], np.ndarray]:
    """Return the steps that all runs recorded, and log10 of the gradient norm, median over runs: (layers, steps).

    Only convolutions on the main path have a row. Values that are not finite are NaN.
    """
    stats_at = [{stats["step"]: stats for stats in run.layer_stats} for run in runs]
    steps = sorted(set.intersection(*(set(by_step) for by_step in stats_at)))
    columns = []
    for step in steps:
        rows = _main_path(stats_at[0][step])
        columns.append([_log_median(by_step[step]["grad_norm"][row] for by_step in stats_at) for row in rows])
    return steps, np.array(columns).T


def plot_responses(runs: Sequence[Run], tall: bool) -> Figure | None:
    """Return the standard deviation of each 3x3 layer's response, in original order and sorted by magnitude.

    Responses are measured after BN, before the ReLU and the addition, on a training batch of the last sample. With more
    than two arms only the deepest networks are drawn.

    Paper: Figure 7.
    """
    runs = _with_layer_stats(runs)
    networks = {
        (arm, depth): [run for run in runs if (run.arm, run.depth) == (arm, depth)]
        for arm in ordered_arms(run.arm for run in runs)
        for depth in sorted({run.depth for run in runs})
    }
    lines = {network: mean_responses(group) for network, group in networks.items() if group}
    lines = {network: line for network, line in lines.items() if line}
    if not lines:
        return None
    figure, (original, ordered) = create_panels(2, tall=tall, height=3.0, sharey=True)
    depths = sorted({depth for _, depth in lines})
    arms = ordered_arms(arm for arm, _ in lines)
    for (arm, depth), line in lines.items():
        index = arms.index(arm) if len(arms) > 2 else depths.index(depth)
        style: dict[str, Any] = {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": LINE_STYLES.get(arm, "-"),
            "linewidth": 1.4,
        }
        original.plot(range(1, len(line) + 1), line, label=f"{arm}-{depth}", **style)
        ordered.plot(range(1, len(line) + 1), sorted(line, reverse=True), **style)
    for axes, title, label in ((original, "original order", "layer"), (ordered, "sorted", "layer, by magnitude")):
        _format_axes(axes, title, label, log=max(map(max, lines.values())) > 100 * min(map(min, lines.values())))
    original.legend(frameon=False, fontsize=9)
    caption = ("standard deviation of each 3×3 layer's response", "after BN, before ReLU and addition")
    add_caption(figure, caption, tall=tall)
    return figure


def mean_responses(runs: Sequence[Run]) -> list[float]:
    """Return the response of each 3x3 layer at the last sample, mean over runs; empty if a value is not finite."""
    last = [run.layer_stats[-1] for run in runs]
    rows = [row for row in _main_path(last[0]) if last[0]["kernels"][row] == 3]
    columns = [[stats["response_std"][row] for stats in last] for row in rows]
    if any(value is None for column in columns for value in column):
        return []
    return [statistics.fmean(column) for column in columns]


def _main_path(stats: dict[str, Any]) -> list[int]:
    """Return the indices of the convolutions on the main path, which depth counts, in order."""
    return [index for index, name in enumerate(stats["layers"]) if "downsample" not in name]


def _with_layer_stats(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with layer stats; with more than two arms, only those of the deepest networks."""
    recorded = [run for run in runs if run.layer_stats]
    deepest = {arm: max(run.depth for run in recorded if run.arm == arm) for arm in {run.arm for run in recorded}}
    return recorded if len(deepest) <= 2 else [run for run in recorded if run.depth == deepest[run.arm]]


def _format_axes(axes: Axes, title: str, label: str, *, log: bool) -> None:
    set_panel_title(axes, title)
    axes.set_xlabel(label)
    axes.set_ylabel("standard deviation")
    axes.grid(axis="y", alpha=0.25, color=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _log_median(values: Iterable[float | None]) -> float:
    """Return log10 of the median; `None` counts as infinite, and a median that is not finite becomes NaN."""
    logs = [math.inf if value is None else math.log10(max(value, MIN_GRAD_NORM)) for value in values]
    median = statistics.median(logs)
    return median if math.isfinite(median) else math.nan


def _cell_edges(steps: Sequence[int]) -> np.ndarray:
    """Return the left edges of the columns of all steps, and the right edge of the last one."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middles = (np.array(steps[:-1]) + np.array(steps[1:])) / 2
    return np.concatenate([[2 * steps[0] - middles[0]], middles, [2 * steps[-1] - middles[-1]]])
