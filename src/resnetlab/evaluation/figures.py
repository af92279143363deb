"""Figures of an evaluation as SVG: calibration, confusion matrix, coverage, errors by class; thumbnails of images."""

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
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from PIL import Image

from resnetlab.evaluation.metrics import Evaluation, confused_pairs
from resnetlab.figure_style import COLOURS, GREY, MIN_RANGE_PCT, STYLE, add_caption, create_panels, set_panel_title
from resnetlab.fonts import text_style
from resnetlab.system.figure_files import figure_bytes

MAX_CLASSES = {False: 30, True: 15}
"""Maximum number of classes in a wide and in a tall figure: more names would be unreadable."""

MAX_CLASSES_WITH_COUNTS = 12
"""Maximum number of classes for which the cells of the confusion matrix have counts."""

LABEL_COLUMNS = 24
"""Maximum width of a class name; longer names are shortened, and an East Asian character has two columns."""

THUMBNAIL_SIDE = 192
"""Longest side of a thumbnail in pixels: an 8x8 digit enlarged 24 times."""

CONFUSION_COLOURS = LinearSegmentedColormap.from_list("confusions", ["#ffffff", "#f2b78f", COLOURS[1]])
"""Cells of the confusion matrix; black numbers are readable on each of these colours."""

CONFUSION_LIMITS_PCT = (0, 100)
"""Shares between which colours change, the same for every network: few errors look pale, many look dark.

Colours follow the square root of the share, so that 1 % of a class can still be seen."""

CONFUSION_TICKS_PCT = (0, 1, 5, 10, 20, 40, 60, 80, 100)

DIAGONAL_COLOUR = (0.88, 0.88, 0.88, 1.0)
"""Correct predictions in the confusion matrix."""

UNPRINTABLE_CATEGORIES = ("Cc", "Cs", "Cn", "Zl", "Zp")
"""Unicode control characters, surrogates, unassigned code points and line separators: XML allows few of them."""

# Class names are text, not formulas. SVG text also displays scripts that only the reader's fonts have.
TEXT_STYLE: dict[Any, Any] = {**STYLE, "svg.fonttype": "none", "text.parse_math": False}


@dataclass(frozen=True)
class SvgFigure:
    """Figure as SVG in two layouts."""

    wide: bytes
    tall: bytes
    """For a phone: stacked panels, fewer classes."""


def draw_figures(evaluation: Evaluation) -> dict[str, SvgFigure | None]:
    """Draw the figures `classes`, `confusion`, `reliability` and `coverage`; `None` is a figure without content."""
    figures: dict[str, SvgFigure | None] = {}
    names = map(figure_label, evaluation.classes)
    style = {**TEXT_STYLE, **text_style(names, report=False)}  # the browser has fonts of its own
    for name, draw in FIGURES.items():
        with mpl.rc_context(style):
            wide, tall = draw(evaluation, False), draw(evaluation, True)
            figures[name] = SvgFigure(_to_svg(wide), _to_svg(tall)) if wide and tall else None
    return figures


def draw_reliability(evaluation: Evaluation, tall: bool) -> Figure | None:
    """Draw accuracy against confidence with 95 % intervals, and the histogram of confidence."""
    bins = [bin_ for bin_ in evaluation.reliability if bin_.count]
    if not bins:
        return None
    figure, (curve, histogram) = create_panels(2, tall=tall, height=3.2)
    confidence, accuracy = np.array([(bin_.confidence, bin_.accuracy) for bin_ in bins], float).T
    intervals = np.array([bin_.accuracy_interval_95 for bin_ in bins]).T
    error_bars = np.abs(intervals - accuracy)  # a rounding error can put an end on the wrong side
    curve.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
    curve.errorbar(confidence, accuracy, error_bars, fmt="o", color=COLOURS[0], markersize=4, capsize=2)
    curve.set(xlim=(-0.02, 1.02), ylim=(-0.03, 1.03), xlabel="mean confidence", ylabel="accuracy")
    curve.grid(alpha=0.25)
    set_panel_title(curve, "reliability")
    total = sum(bin_.count for bin_ in bins)
    edges = [bin_.low for bin_ in evaluation.reliability] + [evaluation.reliability[-1].high]
    shares = [100 * bin_.count / total for bin_ in evaluation.reliability]
    histogram.stairs(shares, edges, fill=True, color=COLOURS[0], alpha=0.8)
    histogram.set(xlim=(-0.02, 1.02), xlabel="confidence", ylabel="images, %")
    histogram.grid(axis="y", alpha=0.25)
    set_panel_title(histogram, "distribution of confidence")
    num_bins = len(evaluation.reliability)
    add_caption(
        figure,
        (f"{num_bins} bins of equal width, dot: accuracy, line: 95 % interval", "dashed: perfect calibration"),
        tall=tall,
    )
    return figure


def draw_confusion_matrix(evaluation: Evaluation, tall: bool) -> Figure | None:
    """Draw the confusion matrix as a heat map; if there are many classes, only the most confused ones."""
    shown = most_confused_classes(evaluation.confusion, MAX_CLASSES[tall])
    if len(shown) < 2:
        return None
    counts = evaluation.confusion[np.ix_(shown, shown)]
    class_sizes = np.array([evaluation.per_class[index].num_samples for index in shown])
    shares = 100 * counts / np.maximum(class_sizes, 1)[:, None]
    np.fill_diagonal(shares, 0)
    scale = PowerNorm(0.5, *CONFUSION_LIMITS_PCT)
    colours = CONFUSION_COLOURS(scale(shares))
    colours[np.diag_indices(len(shown))] = DIAGONAL_COLOUR
    names = [figure_label(evaluation.classes[index]) for index in shown]
    longest = max(map(_num_columns, names))
    available_width = 2.6 if tall else 6.6  # inches for the names of all columns
    rotated = len(names) * longest * 0.09 > available_width
    matrix_height = min(0.42, 6.5 / len(shown)) * len(shown)
    figure, (axes,) = create_panels(1, tall=tall, height=max(1.9, 0.8 + matrix_height) + 0.07 * rotated * longest)
    edges = np.arange(len(shown) + 1)
    axes.pcolormesh(edges, edges, colours, edgecolors="#eeeeee", linewidth=0.4)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    if len(shown) <= MAX_CLASSES_WITH_COUNTS:
        _draw_counts(axes, counts)
    centres = np.arange(len(shown)) + 0.5
    axes.set_xticks(centres, names, fontsize=_font_size(names), rotation=90 if rotated else 0)
    axes.set_yticks(centres, names, fontsize=_font_size(names))
    axes.tick_params(length=0)
    axes.set(xlabel="predicted class", ylabel="true class")
    if shares.any():
        bar = figure.colorbar(ScalarMappable(scale, CONFUSION_COLOURS), ax=axes, pad=0.02)
        bar.set_ticks(CONFUSION_TICKS_PCT, labels=[str(tick) for tick in CONFUSION_TICKS_PCT])
        bar.set_label("confused, %")
    total = len(evaluation.classes)
    selection = f"all {total} classes" if len(shown) == total else f"{len(shown)} of {total:,} classes"
    add_caption(figure, (f"{selection}, grey: correct", "colour: share of the true class's images"), tall=tall)
    return figure


def most_confused_classes(confusion: np.ndarray, max_classes: int) -> list[int]:
    """Return all classes if there are at most `max_classes`, else those of the most frequent confusions, ascending."""
    if len(confusion) <= max_classes:
        return list(range(len(confusion)))
    selected: set[int] = set()
    for pair in confused_pairs(confusion):
        if len(selected | set(pair)) > max_classes:
            break
        selected |= set(pair)
    return sorted(selected)


def draw_class_errors(evaluation: Evaluation, tall: bool) -> Figure | None:
    """Draw the error of each class with its interval, the worst first; if there are many classes, only the worst."""
    rows = [(row.name, row.error) for row in evaluation.per_class if row.error]
    if len(rows) < 2 or not evaluation.top1.num_wrong:
        return None
    rows.sort(key=lambda row: (-row[1].pct, -row[1].num_samples))  # ties: the narrowest interval first
    total, rows = len(rows), rows[: MAX_CLASSES[tall]]
    figure, (axes,) = create_panels(1, tall=tall, height=0.9 + 0.23 * len(rows))
    bars = range(len(rows))
    pct = np.array([error.pct for _, error in rows])
    intervals = np.array([error.interval_95_pct for _, error in rows]).T
    error_bars = np.abs(intervals - pct)
    names = [figure_label(name) for name, _ in rows]
    axes.barh(bars, pct, height=0.7, color=COLOURS[0], alpha=0.35)
    axes.errorbar(pct, bars, xerr=error_bars, fmt="o", color=COLOURS[0], markersize=4, capsize=2)
    axes.axvline(evaluation.top1.pct, color=GREY, linestyle="--", linewidth=1.2)
    axes.set_yticks(bars, names, fontsize=_font_size(names))
    axes.tick_params(axis="y", length=0)
    right = 1.03 * max(intervals.max(), MIN_RANGE_PCT)  # beyond the longest interval, so that its cap is whole
    axes.set(xlim=(-0.015 * right, right), ylim=(len(rows) - 0.4, -0.6), xlabel="top-1 error, %")
    axes.grid(axis="x", alpha=0.25)
    selection = f"all {total} classes" if len(rows) == total else f"the worst {len(rows)} of {total:,} classes"
    add_caption(
        figure,
        (f"{selection}, dot and bar: error, line: 95 % interval", f"dashed: all images, {evaluation.top1.pct:.2f} %"),
        tall=tall,
    )
    return figure


def draw_coverage(evaluation: Evaluation, tall: bool) -> Figure | None:
    """Draw the error against coverage with its 95 % interval, and the threshold `reject_below` if there is one."""
    points = [(point.coverage_pct, point.error) for point in evaluation.coverage if point.error]
    if len(points) < 2 or not evaluation.top1.num_wrong:
        return None
    figure, (axes,) = create_panels(1, tall=tall, height=3.2)
    share, pct = [coverage for coverage, _ in points], [error.pct for _, error in points]
    low, high = np.array([error.interval_95_pct for _, error in points]).T
    axes.fill_between(share, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(share, pct, "o-", color=COLOURS[0], markersize=4)
    rejection = evaluation.rejection
    if rejection and rejection.error:
        axes.plot(rejection.coverage_pct, rejection.error.pct, "D", color=COLOURS[1], markersize=7)
    axes.axhline(evaluation.top1.pct, color=GREY, linestyle="--", linewidth=1.2)
    axes.set(xlim=(0, 102), ylim=(0, 1.03 * max(high.max(), MIN_RANGE_PCT)))
    axes.set(xlabel="images answered, %", ylabel="top-1 error of these, %")
    axes.grid(alpha=0.25)
    lines = ["dot: the most confident images, band: 95 % interval", f"dashed: all images, {evaluation.top1.pct:.2f} %"]
    if rejection and rejection.error:
        lines.append(f"diamond: rejected below {rejection.threshold:g}")
    add_caption(figure, tuple(lines), tall=tall)
    return figure


FIGURES: dict[str, Callable[[Evaluation, bool], Figure | None]] = {
    "classes": draw_class_errors,
    "confusion": draw_confusion_matrix,
    "reliability": draw_reliability,
    "coverage": draw_coverage,
}
"""Functions of an evaluation and whether the layout is tall; they return `None` for a figure without content."""


def thumbnail(image: np.ndarray) -> bytes:
    """Return an image, uint8 of shape (height, width, 1 or 3), as a PNG of at most `THUMBNAIL_SIDE` pixels a side.

    A small image is enlarged by an integer factor without interpolation, so that the network's input stays visible.
    """
    resized = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    factor = THUMBNAIL_SIDE // max(resized.size)
    if factor >= 1:
        resized = resized.resize((resized.width * factor, resized.height * factor), Image.Resampling.NEAREST)
    else:
        resized.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    resized.save(file, "PNG")
    return file.getvalue()


def figure_label(name: str) -> str:
    """Return a class name as one line of at most `LABEL_COLUMNS`, shortened in the middle."""
    name = "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character) in UNPRINTABLE_CATEGORIES else character
        for character in name
    )
    if _num_columns(name) <= LABEL_COLUMNS:
        return name
    start, end = name, name
    while _num_columns(start) > LABEL_COLUMNS // 2:
        start = start[:-1]
    while _num_columns(end) >= LABEL_COLUMNS // 2:
        end = end[1:]
    return f"{start}…{end}"


def _num_columns(text: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)


def _font_size(names: Sequence[str]) -> int:
    return 9 if len(names) <= 20 else 7


def _draw_counts(axes: Axes, counts: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            weight = "bold" if row == column else "normal"
            axes.text(column + 0.5, row + 0.5, f"{count:,}", ha="center", va="center", fontsize=8, fontweight=weight)


def _to_svg(figure: Figure) -> bytes:
    with warnings.catch_warnings():  # the browser draws the names with its own fonts
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        return figure_bytes(figure, "svg")
