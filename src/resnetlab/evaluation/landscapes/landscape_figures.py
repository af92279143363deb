"""Figures of loss landscapes: contours, surfaces and lines, networks side by side on one scale."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from resnetlab.evaluation.landscapes.landscape_models import LandscapeResult
from resnetlab.figure_style import COLOURS, GREY, STYLE, add_caption, create_panels, set_panel_title
from resnetlab.fonts import text_style
from resnetlab.system.figure_files import write_figure

COLOUR_MAP = "viridis"
NUM_LEVELS = 24
LARGEST_RATIO = 1e5
"""Largest over smallest loss on the colour scale; larger losses have the last colour."""


def draw_landscapes(results: Sequence[LandscapeResult], labels: Sequence[str], folder: Path) -> list[Path]:
    """Draw `contours` and `surface` of planes and `lines`, as PNG and SVG.

    Args:
        results: One for each network, all lines or all planes.
        labels: Their names.
        folder: Folder of the files; made if missing.

    Returns:
        The PNG files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [label.replace("$", r"\$") for label in labels]  # a name is no formula
    files = []
    with mpl.rc_context({**STYLE, **text_style(names)}):
        figures = {"lines": plot_lines(results, names)}
        if len(results[0].ys) > 1:
            figures |= {"contours": plot_contours(results, names), "surface": plot_surfaces(results, names)}
        for name, figure in figures.items():
            write_figure(figure, folder / f"{name}.png")
            write_figure(figure, folder / f"{name}.svg")
            files.append(folder / f"{name}.png")
    return files


def plot_lines(results: Sequence[LandscapeResult], names: Sequence[str]) -> Figure:
    """Return loss and error along the first direction, through the network.

    Paper: Li et al. (2018), Figure 2.
    """
    figure, panels = create_panels(2, tall=False)
    for index, (result, name) in enumerate(zip(results, names, strict=True)):
        row = int(np.argmin(np.abs(result.ys)))
        style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "label": name}
        panels[0].plot(result.xs, _finite(result.loss)[row], **style)
        panels[1].plot(result.xs, np.array(result.error_pct)[row], **style)
    panels[0].set_yscale("log")
    panels[1].set_ylim(-2, 102)
    for axes, title in zip(panels, ("loss in nats", "top-1 error in %"), strict=True):
        set_panel_title(axes, title)
        axes.set_xlabel("step along the first direction")
        axes.grid(axis="y", alpha=0.25, color=GREY)
    panels[0].legend(frameon=False, fontsize=9)
    add_caption(figure, _reading(results), tall=False)
    return figure


def plot_contours(results: Sequence[LandscapeResult], names: Sequence[str]) -> Figure:
    """Return the contours of the loss, on one logarithmic scale, and a run's states in its plane.

    Paper: Li et al. (2018), Figures 5 and 9.
    """
    figure, panels = create_panels(len(results), tall=False, height=3.8)
    norm = _scale(results)
    levels = np.geomspace(norm.vmin or 1, norm.vmax or 1, NUM_LEVELS)
    drawn = None
    for axes, result, name in zip(panels, results, names, strict=False):
        values = np.ma.masked_invalid(np.clip(_finite(result.loss), levels[0], levels[-1]))
        drawn = axes.contourf(result.xs, result.ys, values, levels=levels, norm=norm, cmap=COLOUR_MAP)
        axes.contour(result.xs, result.ys, values, levels=levels[::2], colors="white", linewidths=0.4, alpha=0.6)
        if result.states:
            axes.plot(*zip(*result.states, strict=True), color="white", marker="o", markersize=3, linewidth=1)
        axes.plot(0, 0, marker="+", color=COLOURS[1], markersize=10, markeredgewidth=2)
        set_panel_title(axes, name)
        _set_direction_labels(axes, result)
    if drawn is not None:
        ticks = [value for value in 10.0 ** np.arange(-8, 9) if levels[0] <= value <= levels[-1]]
        bar = figure.colorbar(drawn, ax=panels, label="loss in nats", shrink=0.85)
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    add_caption(figure, [*_reading(results), "cross: the trained network"], tall=False)
    return figure


def plot_surfaces(results: Sequence[LandscapeResult], names: Sequence[str]) -> Figure:
    """Return the loss as a surface, on one logarithmic scale.

    Paper: Li et al. (2018), Figure 1.
    """
    figure = Figure(figsize=(max(5.2, 4.6 * len(results)), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    norm = _scale(results)
    low, high = np.log10(norm.vmin or 1), np.log10(norm.vmax or 1)
    for index, (result, name) in enumerate(zip(results, names, strict=True), start=1):
        axes: Any = figure.add_subplot(1, len(results), index, projection="3d")
        columns, rows = np.meshgrid(result.xs, result.ys)
        heights = np.clip(np.log10(np.maximum(_finite(result.loss), 10**low)), low, high)
        options = {"cmap": COLOUR_MAP, "vmin": low, "vmax": high, "linewidth": 0, "rcount": 60, "ccount": 60}
        axes.plot_surface(columns, rows, heights, **options)
        axes.set_zlim(low, high)
        powers = np.arange(np.ceil(low), np.floor(high) + 1)
        axes.set_zticks(powers, [f"{10.0**power:g}" for power in powers])
        axes.locator_params(axis="x", nbins=4)
        axes.locator_params(axis="y", nbins=4)
        _set_direction_labels(axes, result)
        set_panel_title(axes, name)
    add_caption(figure, ["height: loss in nats, logarithmic", *_reading(results)], tall=False)
    return figure


def _scale(results: Sequence[LandscapeResult]) -> LogNorm:
    """Return the colour scale that all networks share."""
    losses = np.concatenate([_finite(result.loss).ravel() for result in results])
    known = losses[np.isfinite(losses) & (losses > 0)]
    low = float(known.min()) if len(known) else 1.0
    high = float(min(known.max(), LARGEST_RATIO * low)) if len(known) else 10.0
    return LogNorm(low, max(high, 1.01 * low))


def _finite(rows: Sequence[Sequence[float]]) -> np.ndarray:
    values = np.array(rows, dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _set_direction_labels(axes: Axes, result: LandscapeResult) -> None:
    names = ("first direction", "second direction")
    if result.explained is not None:
        shares = (f"{100 * share:.0f} % of the variance" for share in result.explained)
        names = tuple(f"principal direction, {share}" for share in shares)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])


def _reading(results: Sequence[LandscapeResult]) -> list[str]:
    """Return the sentences on directions and images."""
    counts = sorted({result.num_images for result in results})
    images = f"{counts[0]:,} images" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,} images"
    if any(result.states for result in results):
        return [f"plane through a run's states, {images}"]
    return [f"filter-normalised random directions, {images}"]
