"""Every figure of a study, as files: what is drawn, in which forms, in what order. No torch here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from resnetlab.figure_style import STYLE
from resnetlab.study.figures.curves import error_curves
from resnetlab.study.figures.depth import depth_figure
from resnetlab.study.figures.layer_stats import heat_maps, responses
from resnetlab.study.results import Run


@dataclass(frozen=True)
class FigureFile:
    """One figure on disk."""

    kind: str
    """`training`, `depth`, `gradients` or `responses`."""
    title: str
    """The data set, with the number of training images where it is a part."""
    wide: Path
    """SVG for a page; a PNG lies beside it."""
    tall: Path
    """SVG for a phone, its panels stacked."""


Draw = Callable[[Sequence[Run], bool], Figure | None]
"""Runs of one source, and whether panels are stacked, to a figure; `None` where there is nothing to show."""

KINDS: dict[str, Draw] = {
    "training": error_curves,
    "depth": depth_figure,
    "gradients": heat_maps,
    "responses": responses,
}


def draw_figures(runs: Sequence[Run], folder: Path) -> list[FigureFile]:
    """Draw every figure of each data set into `folder`, as PNG and SVG, and for phones with its panels stacked."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for title in dict.fromkeys(run.source for run in runs):
        shown = [run for run in runs if run.source == title and not run.is_from_file]
        for kind, figure_of in KINDS.items():
            stem = f"{kind}-{title.replace(', ', '-').replace(' ', '-')}"
            with mpl.rc_context(STYLE):
                wide, tall = figure_of(shown, False), figure_of(shown, True)
                if wide is None or tall is None:
                    continue
                wide.savefig(folder / f"{stem}.png", dpi=160)
                picture = FigureFile(kind, title, folder / f"{stem}.svg", folder / f"{stem}-tall.svg")
                for figure, path in ((wide, picture.wide), (tall, picture.tall)):
                    figure.savefig(path, metadata={"Date": None})  # same records, same bytes
            pictures.append(picture)
    return pictures


def draw_layer_stats(run: Run, folder: Path) -> list[Path]:
    """Draw one run's gradients and responses into `folder` as PNG; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind in ("gradients", "responses"):
        with mpl.rc_context(STYLE):
            figure = KINDS[kind]([run], False)
            if figure is not None:
                files.append(folder / f"{kind}.png")
                figure.savefig(files[-1], dpi=160)
    return files
