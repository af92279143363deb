"""Errors of the arms at equal depth, and their differences with intervals."""

import statistics
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resnetlab.config import ConfigError
from resnetlab.figure_style import GREY, STYLE, add_caption, create_panels, set_panel_title
from resnetlab.fonts import text_style
from resnetlab.study.arms import ordered_arms
from resnetlab.study.figures.colours import arm_colour
from resnetlab.study.results import Run
from resnetlab.study.statistics.arm_comparisons import SPLITS, ArmComparison, error_pct

ROW = 0.34
"""Height of one arm or difference, in inches."""


def plot_comparisons(runs: Sequence[Run], comparisons: Sequence[ArmComparison], split: str | None = None) -> Figure:
    """Return a figure with two panels for each data set and depth: errors of every seed, and paired differences.

    Args:
        runs: The runs of a study.
        comparisons: Their comparisons.
        split: `train`, `val` or `test`; test if it was measured, else val.

    Raises:
        ConfigError: if no run has an error on this split.
    """
    ended = [run for run in runs if run.status in ("done", "diverged") and not run.is_from_file]
    measured = [name for name in SPLITS if any(run.result.get(f"{name}_error_pct") is not None for run in ended)]
    chosen = (measured[-1] if measured else "test") if split is None else split
    if chosen not in measured:
        raise ConfigError(f"no run has an error on split {chosen}; measured: {', '.join(measured) or 'none'}")
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in ended:
        groups.setdefault((run.data_label, run.depth), []).append(run)
    rows = max(
        len({run.arm for run in group}) * (len({run.arm for run in group}) - 1) // 2 for group in groups.values()
    )
    with mpl.rc_context({**STYLE, **text_style([data for data, _ in groups])}):
        figure, panels = create_panels(2 * len(groups), tall=False, across=2, height=1.3 + ROW * max(rows, 3))
        for index, ((data, depth), group) in enumerate(groups.items()):
            _plot_errors(panels[2 * index], group, chosen)
            set_panel_title(panels[2 * index], f"{data}, {depth} layers")
            images = group[0].train_images
            own = [
                c
                for c in comparisons
                if (c.setting.data, c.setting.depth, c.setting.train_images, c.setting.split)
                == (group[0].data, depth, images, chosen)
            ]
            _plot_differences(panels[2 * index + 1], own)
        add_caption(
            figure, (f"left: {SPLITS[chosen]}, a dot for each seed", "right: difference, 95 % interval"), tall=False
        )
    return figure


def _plot_errors(axes: Axes, runs: Sequence[Run], split: str) -> None:
    arms = ordered_arms(run.arm for run in runs)
    for row, arm in enumerate(arms):
        errors = [error for run in runs if run.arm == arm and (error := error_pct(run, split)) is not None]
        if errors:
            axes.plot(errors, [row] * len(errors), "o", color=arm_colour(arm), markersize=4, alpha=0.6)
            axes.plot([statistics.fmean(errors)], [row], "|", color=arm_colour(arm), markersize=16)
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel(f"{SPLITS[split]}, %")
    axes.grid(axis="x", alpha=0.25)


def _plot_differences(axes: Axes, comparisons: Sequence[ArmComparison]) -> None:
    axes.axvline(0, color=GREY, linewidth=0.8)
    for row, comparison in enumerate(comparisons):
        colour = GREY if comparison.better is None else arm_colour(comparison.better)
        ends = comparison.interval or (comparison.mean, comparison.mean)
        axes.plot(ends, (row, row), color=colour)
        axes.plot([comparison.mean], [row], "o", color=colour, markersize=4)
    axes.set_yticks(range(len(comparisons)), [f"{c.second} − {c.first}: {c.outcome}" for c in comparisons])
    axes.set_ylim(max(len(comparisons), 1) - 0.5, -0.5)
    axes.set_xlabel("difference, percentage points")
    axes.grid(axis="x", alpha=0.25)
