"""One small figure for each architecture: error against depth, with and without the addition, a dot for each seed."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resnetlab.figure_style import LEGEND_ROW, MIN_RANGE_PCT, STYLE, add_legend_below, create_panels, set_panel_title
from resnetlab.study.architectures.architecture_grid import ARCHITECTURE_SETTINGS
from resnetlab.study.figures.all_figures import FigureFile, save_figure
from resnetlab.study.figures.colours import arm_colour
from resnetlab.study.figures.depth import DODGE
from resnetlab.study.results import Run
from resnetlab.study.statistics.arm_comparisons import error_pct

ARMS = {"plain": "without the addition: F(x)", "residual": "with the addition: x + F(x)"}
PANELS = {"train": "training error", "test": "test error"}


def draw_architectures(runs: Sequence[Run], folder: Path) -> list[FigureFile]:
    """Draw the figure of each architecture into `folder`: PNG, SVG, and SVG with stacked panels for phones."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, setting in ARCHITECTURE_SETTINGS.items():
        own = [run for run in runs if run.architecture == name and run.status in ("done", "diverged")]
        if not own:
            continue
        with mpl.rc_context(STYLE):
            wide, tall = save_figure(
                plot_architecture(own, tall=False), plot_architecture(own, tall=True), folder, f"depth-{name}"
            )
        caption = (
            f"{setting.title} on {own[0].data}: final error against layers, a dot for each seed, lines through the "
            "means. The networks of both colours start from the same weights."
        )
        alt = f"Training and test error of the {setting.title} at each depth, with and without the addition."
        files.append(FigureFile(name, setting.title, wide=wide, tall=tall, caption=caption, alt=alt))
    return files


def plot_architecture(runs: Sequence[Run], *, tall: bool) -> Figure:
    """Return the figure of one architecture: a panel for training error, one for test error."""
    figure, panels = create_panels(len(PANELS), tall=tall, height=2.2 + LEGEND_ROW)
    depths = sorted({run.depth for run in runs})
    for axes, (split, title) in zip(panels, PANELS.items(), strict=True):
        highest = max(_plot_arm(axes, runs, arm=arm, split=split) for arm in ARMS)
        set_panel_title(axes, title)
        axes.set_xscale("log")
        axes.set_xticks(depths, [str(depth) for depth in depths])
        axes.minorticks_off()
        axes.margins(x=0.1)
        axes.set_xlabel("layers")
        axes.set_ylabel("final error, %")
        top = max(highest, MIN_RANGE_PCT)
        axes.set_ylim(-0.04 * top, 1.06 * top)
        axes.grid(axis="y", alpha=0.25)
    add_legend_below(panels[-1 if tall else 0], ncols=1 if tall else 2)
    return figure


def _plot_arm(axes: Axes, runs: Sequence[Run], *, arm: str, split: str) -> float:
    """Plot the seeds of one arm and a line through their means; return the highest error, in %."""
    values: dict[int, list[float]] = {}
    for run in runs:
        if run.arm == arm and (error := error_pct(run, split)) is not None:
            values.setdefault(run.depth, []).append(error)
    dodge = 1 + DODGE * (1 if arm == "residual" else -1)
    depths = [depth * dodge for depth in sorted(values)]
    means = [statistics.fmean(values[depth]) for depth in sorted(values)]
    axes.plot(depths, means, color=arm_colour(arm), label=ARMS[arm])
    for depth, errors in values.items():
        axes.plot([depth * dodge] * len(errors), errors, "o", color=arm_colour(arm), markersize=5, alpha=0.6)
    return max((max(errors) for errors in values.values()), default=0.0)
