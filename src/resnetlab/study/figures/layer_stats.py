"""Gradients as heat maps, layer by step, and the paper's Figure 7: from the record's signals. No torch here."""

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

FLOOR = 1e-12
"""Gradient norms below this are drawn as this."""

LINES = {"plain": "--"}
"""Plain networks are dashed, as in the paper's Figure 7."""


def main_path(signal: dict[str, Any]) -> list[int]:
    """Return the positions of the convolutions on the main path, in order: those that depth counts."""
    return [at for at, name in enumerate(signal["layers"]) if "downsample" not in name]


def few_enough(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that have signals; where there are more than two arms, those of the deepest networks."""
    heard = [run for run in runs if run.signals]
    deepest = {arm: max(run.depth for run in heard if run.arm == arm) for arm in {run.arm for run in heard}}
    return heard if len(deepest) <= 2 else [run for run in heard if run.depth == deepest[run.arm]]


def heat_maps(runs: Sequence[Run], tall: bool) -> Figure | None:
    """Return gradient norms as colours: a row of panels a depth, an arm a column; the first layer is at the bottom.

    Of several seeds the median is drawn; of more than two arms the deepest networks. What is not finite is crossed out.
    """
    runs = few_enough(runs)
    cells = [(depth, arm) for depth in sorted({run.depth for run in runs}) for arm in ordered_arms(r.arm for r in runs)]
    grouped = {cell: group for cell in cells if (group := [run for run in runs if (run.depth, run.arm) == cell])}
    if not grouped:
        return None
    across = 2 if len({arm for _, arm in grouped}) == 2 else 3
    figure, axes_of = create_panels(len(grouped), tall=tall, across=across, height=2.5)
    maps = {cell: gradient_map(group) for cell, group in grouped.items()}
    finite = np.concatenate([values[np.isfinite(values)] for _, values in maps.values()])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    colours = Normalize(low, max(high, low + 1))
    for axes, ((depth, arm), (steps, values)) in zip(axes_of, maps.items(), strict=False):
        axes.pcolormesh(_edges(steps), np.arange(len(values) + 1) + 0.5, values, norm=colours, rasterized=True)
        axes.set_facecolor("#dddddd")
        if not np.isfinite(values).all():
            axes.patch.set(hatch="xx", edgecolor="#999999")
        set_panel_title(axes, f"{arm}-{depth}")
        axes.set_xlabel("step")
        axes.set_ylabel("convolution")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in axes_of[len(maps) :]:
        axes.set_axis_off()
    bar = figure.colorbar(ScalarMappable(colours), ax=axes_of, shrink=0.8, pad=0.02)
    bar.set_label("gradient norm, power of ten")
    seeds = len({run.seed for run in runs})
    of = f"median of {seeds} seeds" if seeds > 1 else "one seed"
    add_caption(figure, ("norm of the gradient of each convolution's weights", of), tall=tall)
    return figure


def gradient_map(runs: Sequence[Run]) -> tuple[list[int], np.ndarray]:
    """Return the steps that all the runs have samples of, and log10 of the gradient norm there: (layers, steps)."""
    tables = [{signal["step"]: signal for signal in run.signals} for run in runs]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    columns = []
    for step in steps:
        rows = main_path(tables[0][step])
        columns.append([_log_median(table[step]["grad_norm"][row] for table in tables) for row in rows])
    return steps, np.array(columns).T


def responses(runs: Sequence[Run], tall: bool) -> Figure | None:
    """Return the paper's Figure 7: standard deviation of each 3x3 layer's response, in original order and sorted.

    After BN, before the non-linearity and the addition; of the last sample, on a training batch. Of more than two arms
    the deepest networks are drawn.
    """
    runs = few_enough(runs)
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
        place = arms.index(arm) if len(arms) > 2 else depths.index(depth)
        look: dict[str, Any] = {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": LINES.get(arm, "-"),
            "linewidth": 1.4,
        }
        original.plot(range(1, len(line) + 1), line, label=f"{arm}-{depth}", **look)
        ordered.plot(range(1, len(line) + 1), sorted(line, reverse=True), **look)
    for axes, title, label in ((original, "original order", "layer"), (ordered, "sorted", "layer, by magnitude")):
        _finish(axes, title, label, log=max(map(max, lines.values())) > 100 * min(map(min, lines.values())))
    original.legend(frameon=False, fontsize=9)
    add_caption(
        figure, ("standard deviation of each 3×3 layer's response", "after BN, before ReLU and addition"), tall=tall
    )
    return figure


def mean_responses(runs: Sequence[Run]) -> list[float]:
    """Return the mean over seeds of each 3x3 layer's response at the last sample; empty where one is not finite."""
    last = [run.signals[-1] for run in runs]
    rows = [row for row in main_path(last[0]) if last[0]["kernels"][row] == 3]
    columns = [[signal["response_std"][row] for signal in last] for row in rows]
    if any(value is None for column in columns for value in column):
        return []
    return [statistics.fmean(column) for column in columns]


def _finish(axes: Axes, title: str, label: str, *, log: bool) -> None:
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
    there = [math.inf if value is None else math.log10(max(value, FLOOR)) for value in values]
    median = statistics.median(there)
    return median if math.isfinite(median) else math.nan


def _edges(steps: Sequence[int]) -> np.ndarray:
    """Return where the column of each step begins, and where the last one ends."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middles = (np.array(steps[:-1]) + np.array(steps[1:])) / 2
    return np.concatenate([[2 * steps[0] - middles[0]], middles, [2 * steps[-1] - middles[-1]]])
