"""Final error against depth, one line for each arm."""

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resnetlab.figure_style import COLOURS, add_caption, create_panels, set_panel_title
from resnetlab.study.arms import ordered_arms
from resnetlab.study.results import Run

ERRORS = {"train_error_pct": "training error", "test_error_pct": "test error", "val_error_pct": "validation error"}
"""Key to title of a panel; the first two that were measured are drawn: validation error only without a test split."""


def plot_depth(runs: Sequence[Run], tall: bool) -> Figure | None:
    """Return the figure of one data set, or `None` if there is one depth only."""
    runs = [run for run in runs if run.status == "done"]
    depths = sorted({run.depth for run in runs})
    if len(depths) < 2:
        return None
    measured = [key for key in ERRORS if any(run.result.get(key) is not None for run in runs)][:2]
    figure, panels = create_panels(len(measured), tall=tall, height=3.0)
    for axes, key in zip(panels, measured, strict=True):
        for index, arm in enumerate(ordered_arms(run.arm for run in runs)):
            _plot_arm(axes, [run for run in runs if run.arm == arm], key, colour=COLOURS[index], label=arm)
        set_panel_title(axes, ERRORS[key])
        axes.set_xscale("log")
        axes.set_xticks(depths, [str(depth) for depth in depths])
        axes.minorticks_off()
        axes.set_xlabel("layers")
        axes.set_ylabel("final error, %")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", alpha=0.25)
        axes.legend(frameon=False, loc="best")
    seeds = len({run.seed for run in runs})
    bars = f"dot: mean of {seeds} seeds, bar: lowest to highest" if seeds > 1 else "one seed"
    add_caption(figure, (f"final error against depth; {bars}",), tall=tall)
    return figure


def _plot_arm(axes: Axes, runs: Sequence[Run], key: str, *, colour: str, label: str) -> None:
    values: dict[int, list[float]] = {}
    for run in runs:
        if run.result.get(key) is not None:
            values.setdefault(run.depth, []).append(run.result[key])
    depths = sorted(values)
    means = [statistics.fmean(values[depth]) for depth in depths]
    below = [mean - min(values[depth]) for mean, depth in zip(means, depths, strict=True)]
    above = [max(values[depth]) - mean for mean, depth in zip(means, depths, strict=True)]
    axes.errorbar(depths, means, (below, above), color=colour, marker="o", markersize=4, capsize=3, label=label)
