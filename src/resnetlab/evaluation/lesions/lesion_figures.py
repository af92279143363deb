"""Figures of lesions: errors without blocks and in other orders, and gradients by path length."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnetlab.evaluation.lesions.lesion import LesionResult
from resnetlab.figure_style import (
    COLOURS,
    GREY,
    LEGEND_ROW,
    STYLE,
    add_caption,
    add_legend_below,
    create_panels,
    set_panel_title,
)
from resnetlab.fonts import text_style
from resnetlab.system.figure_files import write_figure

MARKERS = "osD^vX"


def draw_lesions(results: Sequence[LesionResult], labels: Sequence[str], folder: Path) -> list[Path]:
    """Draw the figures `lesion` and, for residual networks with measured paths, `paths` as PNG and SVG.

    Args:
        results: One for each network.
        labels: Their names in the legend.
        folder: Folder of the files; made if missing.

    Returns:
        The PNG files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    names = [label.replace("$", r"\$") for label in labels]  # a name is no formula
    with mpl.rc_context({**STYLE, **text_style(names)}):
        figures = {"lesion": plot_errors(results, names), "paths": plot_paths(results, names)}
        for name, figure in figures.items():
            if figure is not None:
                write_figure(figure, folder / f"{name}.png")
                write_figure(figure, folder / f"{name}.svg")
                files.append(folder / f"{name}.png")
    return files


def plot_errors(results: Sequence[LesionResult], labels: Sequence[str]) -> Figure:
    """Return three panels: the error without each block, without several, and in other orders.

    Paper: Veit et al. (2016), Figures 3 and 5.
    """
    figure, panels = create_panels(3, tall=False, height=3.2 + LEGEND_ROW * -(-len(results) // 2))
    for index, (result, label) in enumerate(zip(results, labels, strict=True)):
        style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "label": label}
        _plot_single(panels[0], result, style | {"marker": MARKERS[index % len(MARKERS)]})
        _plot_several(panels[1], result, style)
        taus, errors = [e.kendall_tau for e in result.reordered], [e.error_pct for e in result.reordered]
        panels[2].scatter(taus, errors, s=14, alpha=0.6, marker=MARKERS[index % len(MARKERS)], **style)
        for axes in panels:
            axes.axhline(result.error_pct, color=style["color"], linestyle=":", linewidth=1)
    titles = ("one block removed", "several blocks removed", "blocks swapped")
    x_labels = ("block, from the first", "removed blocks", "Kendall's tau of the order")
    for axes, title, x_label in zip(panels, titles, x_labels, strict=True):
        set_panel_title(axes, title)
        axes.set_xlabel(x_label)
        axes.set_ylim(-2, 102)
        axes.grid(axis="y", alpha=0.25, color=GREY)
    for axes in panels[:2]:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    panels[0].set_ylabel("top-1 error in %")
    panels[2].invert_xaxis()  # the original order on the left, as fewer changes are in the other panels
    add_legend_below(panels[0], ncols=2)
    sentences = ["dotted: the whole network", "line and band: mean and range over random choices"]
    if any(not block.keeps_shape for result in results for block in result.without_block):
        sentences.append("hollow: a block that changes the shape")
    add_caption(figure, sentences, tall=False)
    return figure


def plot_paths(results: Sequence[LesionResult], labels: Sequence[str]) -> Figure | None:
    """Return three panels by path length: share of paths, gradient of one path, share of the gradient.

    Paper: Veit et al. (2016), Figure 6.
    """
    measured = [(index, result.paths) for index, result in enumerate(results) if result.paths is not None]
    if not measured:
        return None
    figure, panels = create_panels(3, tall=False, height=3.2 + LEGEND_ROW * -(-len(measured) // 2))
    for index, paths in measured:
        lengths = np.arange(paths.num_blocks + 1)
        style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "label": labels[index], "markersize": 3}
        panels[0].plot(lengths, 100 * np.array(paths.path_share), marker="o", **style)
        norms = np.array(paths.gradient_norm)
        panels[1].plot(lengths, np.where(norms > 0, norms, np.nan), marker="o", **style)
        panels[2].plot(lengths, 100 * np.array(paths.gradient_share), marker="o", **style)
    titles = ("number of paths", "gradient of one path", "gradient of all paths")
    y_labels = ("share of all paths in %", "norm at the first block", "share of a length in %")
    for axes, title, y_label in zip(panels, titles, y_labels, strict=True):
        set_panel_title(axes, title)
        axes.set_xlabel("path length in blocks")
        axes.set_ylabel(y_label)
        axes.grid(axis="y", alpha=0.25, color=GREY)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    panels[1].set_yscale("log")
    add_legend_below(panels[0], ncols=2)
    sentences = ("a path passes each block through F or the shortcut", "its length is the number of F")
    add_caption(figure, sentences, tall=False)
    return figure


def _plot_single(axes: Axes, result: LesionResult, style: dict[str, Any]) -> None:
    """Plot the error without each block; a block that changes the shape has a hollow marker."""
    errors = [block.error_pct for block in result.without_block]
    axes.plot(range(1, len(errors) + 1), errors, linewidth=1, markersize=4, **style)
    for position, block in enumerate(result.without_block, start=1):
        if not block.keeps_shape:
            hollow = style | {"label": None, "markersize": 6, "markerfacecolor": "white"}
            axes.plot(position, block.error_pct, **hollow)


def _plot_several(axes: Axes, result: LesionResult, style: dict[str, Any]) -> None:
    counts = sorted({len(removal.blocks) for removal in result.without_blocks})
    groups = [[r.error_pct for r in result.without_blocks if len(r.blocks) == count] for count in counts]
    axes.plot(counts, [statistics.fmean(group) for group in groups], marker="o", markersize=3, **style)
    low, high = [min(group) for group in groups], [max(group) for group in groups]
    axes.fill_between(counts, low, high, color=style["color"], alpha=0.15, linewidth=0)
