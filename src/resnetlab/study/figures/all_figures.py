"""All figures of a study, drawn into files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from resnetlab.figure_style import STYLE
from resnetlab.fonts import text_style
from resnetlab.study.figures.captions import CAPTIONS, alternative_text
from resnetlab.study.figures.curves import plot_error_curves
from resnetlab.study.figures.depth import plot_depth
from resnetlab.study.figures.gradients import plot_gradients
from resnetlab.study.figures.responses import plot_responses
from resnetlab.study.results import Run
from resnetlab.system.figure_files import write_figure


@dataclass(frozen=True)
class FigureFile:
    """One figure of one data set on disk."""

    kind: str
    """A key of `FIGURES`."""
    title: str
    """The training images, as `Run.data_label`."""
    wide: Path
    """SVG for a page; a PNG is beside it."""
    tall: Path
    """SVG for a phone, with stacked panels."""
    caption: str
    """Sentences below the figure."""
    alt: str
    """Words instead of the figure."""


PlotFunction = Callable[[Sequence[Run], bool], Figure | None]
"""Runs on one data set, and whether panels are stacked, to a figure; `None` if there is nothing to draw."""

FIGURES: dict[str, PlotFunction] = {
    "training": plot_error_curves,
    "depth": plot_depth,
    "gradients": plot_gradients,
    "responses": plot_responses,
}


def draw_figures(runs: Sequence[Run], folder: Path) -> list[FigureFile]:
    """Draw every figure of each data set into `folder`: PNG, SVG, and SVG with stacked panels for phones."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for title in dict.fromkeys(run.data_label for run in runs):
        on_data = [run for run in runs if run.data_label == title]
        group = [run for run in on_data if not run.is_from_file]
        fonts = text_style([title])
        for kind, plot in FIGURES.items():
            stem = f"{kind}-{title.replace(', ', '-').replace(' ', '-')}"
            with mpl.rc_context({**STYLE, **fonts}):
                wide, tall = plot(group, False), plot(group, True)
                if wide is None or tall is None:
                    continue
                wide_file, tall_file = save_figure(wide, tall, folder, stem)
            caption, alt = CAPTIONS[kind](on_data, title), alternative_text(kind, group, title)
            files.append(FigureFile(kind, title, wide=wide_file, tall=tall_file, caption=caption, alt=alt))
    return files


def save_figure(wide: Figure, tall: Figure, folder: Path, stem: str) -> tuple[Path, Path]:
    """Save both forms of a figure as SVG, and the wide one as PNG too; return the paths of the SVG."""
    write_figure(wide, folder / f"{stem}.png")
    files = folder / f"{stem}.svg", folder / f"{stem}-tall.svg"
    for figure, path in zip((wide, tall), files, strict=True):
        write_figure(figure, path)
    return files


def draw_layer_stats(run: Run, folder: Path) -> list[Path]:
    """Draw gradients and responses of one run into `folder` as PNG; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    fonts = text_style([run.data_label])
    for kind in ("gradients", "responses"):
        with mpl.rc_context({**STYLE, **fonts}):
            figure = FIGURES[kind]([run], False)
            if figure is not None:
                files.append(folder / f"{kind}.png")
                write_figure(figure, files[-1])
    return files
