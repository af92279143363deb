"""The figures of an evaluation: calibration, confusions, classes, and thumbnails of images. No torch here."""

import io
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image

from resnetlab.evaluation.metrics import Evaluation, confused_pairs
from resnetlab.figure_style import COLOURS, SOFT, STYLE, head, note, panels

SHOWN = {False: 30, True: 15}
"""Beyond so many classes a figure shows the worst alone, wide and tall: more names cannot be read."""

COUNTED = 12
"""Up to so many classes the counts stand in the confusion matrix."""

LABEL_COLUMNS = 24
"""A class name longer than this is shortened; an East Asian character fills two columns."""

THUMBNAIL = 192
"""Longest side of a thumbnail, in pixels: an 8x8 digit enlarged 24 times."""

SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#f2b78f", COLOURS[1]])
"""Of confusions; black figures can be read on all of it."""

UNDRAWABLE = ("Cc", "Cs", "Cn", "Zl", "Zp")
"""Unicode's controls, halves of pairs, gaps, and line ends: XML has no place for most of them."""

RIGHT = (0.88, 0.88, 0.88, 1.0)
"""The diagonal of the confusion matrix."""

# Names are words, not formulas; and as text an SVG shows them in any script that the reader's machine has.
TEXT: dict[Any, Any] = {**STYLE, "svg.fonttype": "none", "text.parse_math": False}


@dataclass(frozen=True)
class SvgFigure:
    """One figure as SVG."""

    wide: bytes
    tall: bytes
    """For a phone: panels stacked, fewer classes."""


def draw_figures(evaluation: Evaluation) -> dict[str, SvgFigure | None]:
    """Draw `classes`, `confusion` and `reliability`; `None` stands for one that has nothing to show."""
    drawn: dict[str, SvgFigure | None] = {}
    for kind, figure_of in KINDS.items():
        with mpl.rc_context(TEXT):
            wide, tall = figure_of(evaluation, False), figure_of(evaluation, True)
            drawn[kind] = SvgFigure(_svg(wide), _svg(tall)) if wide and tall else None
    return drawn


def reliability(evaluation: Evaluation, tall: bool) -> Figure | None:
    """Return accuracy against confidence, with 95 % intervals, beside the histogram of confidences."""
    filled = [one for one in evaluation.reliability if one.count]
    if not filled:
        return None
    figure, (curve, histogram) = panels(2, tall=tall, height=3.2)
    confidence, accuracy = ([getattr(one, name) for one in filled] for name in ("confidence", "accuracy"))
    ends = np.array([one.accuracy_interval_95 for one in filled]).T
    around = np.abs(ends - accuracy)  # an end can lie a rounding error on the wrong side
    curve.plot([0, 1], [0, 1], "--", color=SOFT, linewidth=1)
    curve.errorbar(confidence, accuracy, around, fmt="o", color=COLOURS[0], markersize=4, capsize=2, clip_on=False)
    curve.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="mean confidence", ylabel="share that is right")
    curve.grid(alpha=0.25)
    head(curve, "is confidence deserved?")
    total = sum(one.count for one in filled)
    edges = [one.low for one in evaluation.reliability] + [evaluation.reliability[-1].high]
    shares = [100 * one.count / total for one in evaluation.reliability]
    histogram.stairs(shares, edges, fill=True, color=COLOURS[0], alpha=0.8)
    histogram.set(xlim=(0, 1.02), xlabel="confidence", ylabel="images, %")
    histogram.grid(axis="y", alpha=0.25)
    head(histogram, "how confident it is")
    words = (f"{len(evaluation.reliability)} bins of equal width, bars: 95 % interval", "dashed: perfect calibration")
    note(figure, words, tall=tall)
    return figure


def confusion(evaluation: Evaluation, tall: bool) -> Figure | None:
    """Return the confusion matrix as a heat map; of many classes those between which the most are confused."""
    shown = confused_classes(evaluation.confusion, SHOWN[tall])
    if len(shown) < 2:
        return None
    counts = evaluation.confusion[np.ix_(shown, shown)]
    of_class = np.array([evaluation.per_class[at].num_samples for at in shown])
    shares = 100 * counts / np.maximum(of_class, 1)[:, None]
    np.fill_diagonal(shares, 0)
    scale = Normalize(0, shares.max() or 1)
    colours = SHARES(scale(shares))
    colours[np.diag_indices(len(shown))] = RIGHT
    names = [label(evaluation.classes[at]) for at in shown]
    upright = len(names) * max(map(_columns, names)) * 0.09 > (2.6 if tall else 6.6)  # inches that the columns have
    cells = min(0.42, 6.5 / len(shown)) * len(shown)
    figure, (axes,) = panels(1, tall=tall, height=max(1.9, 0.8 + cells) + 0.07 * upright * max(map(_columns, names)))
    axes.pcolormesh(np.arange(len(shown) + 1), np.arange(len(shown) + 1), colours, edgecolors="#eeeeee", linewidth=0.4)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    if len(shown) <= COUNTED:
        _write_counts(axes, counts)
    places = np.arange(len(shown)) + 0.5
    axes.set_xticks(places, names, fontsize=_size(names), rotation=90 if upright else 0)
    axes.set_yticks(places, names, fontsize=_size(names))
    axes.tick_params(length=0)
    axes.set(xlabel="predicted class", ylabel="true class")
    if shares.any():
        figure.colorbar(ScalarMappable(scale, SHARES), ax=axes, pad=0.02).set_label("confused, %")
    total = len(evaluation.classes)
    which = f"all {total} classes" if len(shown) == total else f"{len(shown)} of {total:,} classes"
    note(figure, (f"{which}, grey: right", "colour: share of the true class's images"), tall=tall)
    return figure


def confused_classes(matrix: np.ndarray, most: int) -> list[int]:
    """Return all classes where they are at most `most`, else those of the most frequent confusions, in class order."""
    if len(matrix) <= most:
        return list(range(len(matrix)))
    chosen: set[int] = set()
    for pair in confused_pairs(matrix):
        if len(chosen | set(pair)) > most:
            break
        chosen |= set(pair)
    return sorted(chosen)


def classes(evaluation: Evaluation, tall: bool) -> Figure | None:
    """Return the error of each class with its interval, the worst first; of many classes the worst alone."""
    rows = [(one.name, one.error) for one in evaluation.per_class if one.error]
    if len(rows) < 2 or not evaluation.top1.num_wrong:
        return None
    rows.sort(key=lambda row: (-row[1].pct, -row[1].num_samples))  # among equals the surest first
    total, rows = len(rows), rows[: SHOWN[tall]]
    figure, (axes,) = panels(1, tall=tall, height=0.9 + 0.23 * len(rows))
    places = range(len(rows))
    pct = np.array([error.pct for _, error in rows])
    ends = np.array([error.interval_95_pct for _, error in rows]).T
    names = [label(name) for name, _ in rows]
    axes.barh(places, pct, height=0.7, color=COLOURS[0], alpha=0.35)
    axes.errorbar(
        pct, places, xerr=np.abs(ends - pct), fmt="o", color=COLOURS[0], markersize=4, capsize=2, clip_on=False
    )
    axes.axvline(evaluation.top1.pct, color=COLOURS[1], linestyle="--", linewidth=1.2)
    axes.set_yticks(places, names, fontsize=_size(names))
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, min(100, 1.05 * ends.max())), ylim=(len(rows) - 0.4, -0.6), xlabel="top-1 error, %")
    axes.grid(axis="x", alpha=0.25)
    which = f"all {total} classes" if len(rows) == total else f"the worst {len(rows)} of {total:,} classes"
    note(figure, (f"{which}, bars: 95 % interval", f"dashed: all images, {evaluation.top1.pct:.2f} %"), tall=tall)
    return figure


Draw = Callable[[Evaluation, bool], Figure | None]
"""An evaluation, and whether it is for a phone, to a figure; `None` where there is nothing to show."""

KINDS: dict[str, Draw] = {"classes": classes, "confusion": confusion, "reliability": reliability}


def thumbnail(image: np.ndarray) -> bytes:
    """Return an image, uint8 of shape (height, width, 1 or 3), as a PNG whose longest side is at most `THUMBNAIL`.

    A small one is enlarged by a whole factor, each pixel a square, so that one sees what the network saw.
    """
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    factor = THUMBNAIL // max(picture.size)
    if factor >= 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    else:
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def label(name: str) -> str:
    """Return a class name as it stands beside a figure: one line, at most `LABEL_COLUMNS` wide, the middle left out."""
    name = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in UNDRAWABLE else c for c in name)
    if _columns(name) <= LABEL_COLUMNS:
        return name
    start, end = name, name
    while _columns(start) > LABEL_COLUMNS // 2:
        start = start[:-1]
    while _columns(end) >= LABEL_COLUMNS // 2:
        end = end[1:]
    return f"{start}…{end}"


def _columns(text: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)


def _size(names: Sequence[str]) -> int:
    return 9 if len(names) <= 20 else 7


def _write_counts(axes: Axes, counts: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            weight = "bold" if row == column else "normal"
            axes.text(column + 0.5, row + 0.5, f"{count:,}", ha="center", va="center", fontsize=8, fontweight=weight)


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():  # the reader's browser draws the names, and has other fonts
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        figure.savefig(file, format="svg", metadata={"Date": None})  # same evaluation, same bytes
    return file.getvalue()
