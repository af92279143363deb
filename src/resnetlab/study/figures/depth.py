"""Final error against depth, one line for each arm."""

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resnetlab.figure_style import (
    LEGEND_ROW,
    MIN_RANGE_PCT,
    add_caption,
    add_legend_below,
    create_panels,
    legend_columns,
    set_panel_title,
)
from resnetlab.study.arms import ordered_arms
from resnetlab.study.figures.colours import arm_colour
from resnetlab.study.figures.selection import over_seeds
from resnetlab.study.results import Run
from resnetlab.study.statistics.arm_comparisons import error_pct

ERRORS = {"train_error_pct": "training error", "test_error_pct": "test error", "val_error_pct": "validation error"}
"""Key to title of a panel; the first two that were measured are drawn: validation error only without a test split."""

DODGE = 0.012
"""Distance of the points of two arms at the same depth, as a share of the depth, so that their bars do not overlap."""


def plot_depth(runs: Sequence[Run], tall: bool) -> Figure | None:
    """Return the figure of one data set, or `None` if there is one depth only, or no error.

    A run that ended in NaN is drawn at 100 %, as comparisons and verdicts count it.
    """
    runs = [run for run in runs if run.status in ("done", "diverged")]
    depths, measured = sorted({run.depth for run in runs}), measured_errors(runs)
    if len(depths) < 2 or not measured:
        return None
    arms = ordered_arms(run.arm for run in runs)
    columns = legend_columns(arms, 2 if tall else 3)
    height = 2.9 + LEGEND_ROW * -(-len(arms) // columns)
    figure, panels = create_panels(len(measured), tall=tall, height=height)
    for axes, key in zip(panels, measured, strict=True):
        highest = 0.0
        for index, arm in enumerate(arms):
            dodge = 1 + DODGE * (index - (len(arms) - 1) / 2)
            highest = max(highest, _plot_arm(axes, [run for run in runs if run.arm == arm], key, arm=arm, dodge=dodge))
        set_panel_title(axes, ERRORS[key])
        axes.set_xscale("log")
        axes.set_xticks(depths, [str(depth) for depth in depths])
        axes.minorticks_off()
        axes.margins(x=0.06)
        axes.set_xlabel("layers")
        axes.set_ylabel("final error, %")
        # A margin on both sides: a marker at 0 and the cap of the longest bar are drawn whole.
        top = max(highest, MIN_RANGE_PCT)
        axes.set_ylim(-0.04 * top, 1.06 * top)
        axes.grid(axis="y", alpha=0.25)
        add_legend_below(axes, ncols=columns)
    groups = [[r for r in runs if (r.arm, r.depth) == key] for key in {(run.arm, run.depth) for run in runs}]
    several = any(len(group) > 1 for group in groups)
    bars = f"dot: {over_seeds(groups)}, bar: lowest to highest" if several else "one seed"
    add_caption(figure, ("final error against depth", bars), tall=tall)
    return figure


def measured_errors(runs: Sequence[Run]) -> list[str]:
    """Return the keys of `ERRORS` that have a panel."""
    return [key for key in ERRORS if any(run.result.get(key) is not None for run in runs)][:2]


def _plot_arm(axes: Axes, runs: Sequence[Run], key: str, *, arm: str, dodge: float) -> float:
    """Plot one arm with its depths multiplied by `dodge`; return the highest error, in %."""
    values: dict[int, list[float]] = {}
    for run in runs:
        if (error := error_pct(run, key.removesuffix("_error_pct"))) is not None:
            values.setdefault(run.depth, []).append(error)
    if not values:
        return 0.0
    depths = sorted(values)
    means = [statistics.fmean(values[depth]) for depth in depths]
    below = [mean - min(values[depth]) for mean, depth in zip(means, depths, strict=True)]
    above = [max(values[depth]) - mean for mean, depth in zip(means, depths, strict=True)]
    axes.errorbar(
        [depth * dodge for depth in depths],
        means,
        (below, above),
        color=arm_colour(arm),
        marker="o",
        markersize=4,
        capsize=3,
        label=arm,
    )
    return max(max(row) for row in values.values())
