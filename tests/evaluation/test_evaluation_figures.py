"""Figures: text read back from the SVG, class names in any script, thumbnails pixel by pixel."""

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from PIL import Image

from resnetlab.evaluation.figures import (
    CONFUSION_COLOURS,
    LABEL_COLUMNS,
    THUMBNAIL_SIDE,
    SvgFigure,
    draw_class_errors,
    draw_confusion_matrix,
    draw_figures,
    draw_reliability,
    figure_label,
    most_confused_classes,
    thumbnail,
)
from resnetlab.evaluation.metrics import Evaluation, compute_metrics
from resnetlab.evaluation.predictions import Predictions

UNUSUAL_NAMES = [
    "<b>bold</b> & 'co'",
    "$\\frac{1$",
    "鳥 と 猫",
    "line\nend",
    "half \ud800 \x01 \ufffe",
    "é" * 300,
    "🦆",
]


def evaluation_of(
    num_classes: int, num_samples: int = 400, names: list[str] | None = None, error: float = 0.3
) -> Evaluation:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, num_samples)
    first = np.where(rng.random(num_samples) < error, rng.integers(0, num_classes, num_samples), labels)
    top = np.stack([(first + step) % num_classes for step in range(min(5, num_classes))], axis=1)
    confidence = rng.uniform(0.3, 1, num_samples)
    return compute_metrics(
        Predictions(
            positions=np.arange(num_samples), labels=labels, top=top, confidence=confidence, loss=-np.log(confidence)
        ),
        names or [f"n{number:03}" for number in range(num_classes)],
    )


def texts(svg: bytes) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"))


def strings(svg: bytes) -> list[str]:
    """Return every text of a figure."""
    return ["".join(text.itertext()) for text in texts(svg)]


def figure_strings(figures: dict[str, SvgFigure | None], kind: str, form: str = "wide") -> list[str]:
    figure = figures[kind]
    assert figure is not None
    return strings(getattr(figure, form))


def test_few_classes_are_all_shown_with_counts():
    evaluation = evaluation_of(3)
    figures = draw_figures(evaluation)
    assert set(figure_strings(figures, "confusion")) >= {f"{count:,}" for count in evaluation.confusion.flat}
    assert "all 3 classes, grey: correct; colour: share of the true class's images" in figure_strings(
        figures, "confusion"
    )
    labels = figure_strings(figures, "classes")
    by_error = sorted(evaluation.per_class, key=lambda item: -item.error.pct if item.error else 0)
    assert [word for word in labels if word.startswith("n0")] == [item.name for item in by_error]


@pytest.mark.parametrize("num_classes", [pytest.param(100, marks=pytest.mark.slow), 1000])
def test_of_many_classes_only_the_worst_are_shown(num_classes):
    evaluation = evaluation_of(num_classes, 3 * num_classes)
    figures = draw_figures(evaluation)
    errors = {item.name: item.error.pct for item in evaluation.per_class if item.error}
    for form, most in (("wide", 30), ("tall", 15)):
        labels = figure_strings(figures, "classes", form)
        shown = [word for word in labels if re.fullmatch(r"n\d+", word)]
        assert len(shown) == len(set(shown)) == most
        assert min(errors[name] for name in shown) >= max(errors[name] for name in errors if name not in shown)
        assert any(f"the worst {most} of {len(errors):,} classes" in word for word in labels)
        labels = figure_strings(figures, "confusion", form)
        shown = [word for word in labels if re.fullmatch(r"n\d+", word)]
        assert most - 1 <= len(set(shown)) <= most
        assert len(shown) == 2 * len(set(shown))  # at the rows and at the columns
        assert {evaluation.confusions[0].true, evaluation.confusions[0].predicted} <= set(shown)
        assert any(f"{len(set(shown))} of {num_classes:,} classes" in word for word in labels)


def test_most_confused_classes():
    matrix = np.diag([9] * 6)
    matrix[5, 2], matrix[0, 1], matrix[2, 3] = 4, 3, 2
    assert most_confused_classes(matrix, 6) == [0, 1, 2, 3, 4, 5]
    assert most_confused_classes(matrix, 5) == [0, 1, 2, 3, 5]
    assert most_confused_classes(matrix, 4) == [0, 1, 2, 5]
    assert most_confused_classes(matrix, 3) == [2, 5]
    assert most_confused_classes(np.diag([9] * 6), 5) == []


def test_no_error_figures_without_mistakes():
    figures = draw_figures(evaluation_of(40, error=0))
    assert figures["confusion"] is figures["classes"] is None
    assert figures["reliability"] is not None


def test_no_reliability_figure_without_a_finite_confidence():
    nothing = np.full(4, np.nan)
    predictions = Predictions(
        positions=np.arange(4),
        labels=np.arange(4) % 2,
        top=np.zeros((4, 2), dtype=np.int64),
        confidence=nothing,
        loss=nothing,
    )
    figures = draw_figures(compute_metrics(predictions, ["a", "b"]))
    assert figures["reliability"] is None
    assert figures["classes"] is not None


def test_names_of_every_kind_are_text():
    """No name is parsed as a formula or as XML, and a glyph that matplotlib's font lacks gives no warning."""
    figures = draw_figures(evaluation_of(len(UNUSUAL_NAMES), names=UNUSUAL_NAMES))
    for kind in ("confusion", "classes"):
        figure = figures[kind]
        assert figure is not None
        for svg in (figure.wide, figure.tall):
            labels = strings(svg)
            assert {"<b>bold</b> & 'co'", "$\\frac{1$", "鳥 と 猫", "line�end", "half � � �", "🦆"} <= set(labels)
            assert ElementTree.fromstring(svg).find(".//{*}b") is None


def test_wide_characters_get_enough_space():
    """In a browser a wide character is as wide as the font is high; matplotlib lacks the glyph."""
    name = "猫" * 12
    figure = draw_figures(evaluation_of(2, names=[name, "b"]))["classes"]
    assert figure is not None
    (text,) = [text for text in texts(figure.wide) if "".join(text.itertext()) == name]
    assert "text-anchor: end" in text.attrib["style"]
    assert float(text.attrib["x"]) >= 9 * len(name)


def test_long_labels_are_shortened():
    assert figure_label("tabby cat") == "tabby cat"
    assert figure_label("a" * 20 + "b" * 20) == "a" * 12 + "…" + "b" * 11
    assert figure_label("猫" * 12) == "猫" * 12
    assert len(figure_label("猫" * 13)) <= LABEL_COLUMNS // 2
    assert figure_label("plain\tname") == "plain�name"


def test_the_same_evaluation_gives_the_same_bytes():
    assert draw_figures(evaluation_of(3)) == draw_figures(evaluation_of(3))


def decode_png(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_small_image_is_enlarged_pixel_by_pixel(channels):
    image = np.random.default_rng(0).integers(0, 256, (8, 5, channels), dtype=np.uint8)
    large = decode_png(thumbnail(image))
    factor = THUMBNAIL_SIDE // 8
    assert large.shape[:2] == (8 * factor, 5 * factor)
    for row in range(8):
        for column in range(5):
            block = large[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            assert (block.reshape(factor * factor, -1) == image[row, column]).all()


@pytest.mark.parametrize(
    ("shape", "size"), [((300, 600, 3), (96, 192)), ((1, 4000, 1), (1, 192)), ((100, 190, 3), (100, 190))]
)
def test_a_large_image_is_reduced(shape, size):
    small = decode_png(thumbnail(np.full(shape, 77, dtype=np.uint8)))
    assert small.shape[:2] == size
    assert (small == 77).all()


@pytest.mark.parametrize("error", [0.02, 0.5, 1.0])
def test_the_colours_of_confusions_do_not_depend_on_the_network(error):
    """The worst cell of a good network is pale: its colour is that of the share, not that of the maximum."""
    evaluation = evaluation_of(4, error=error)
    figure = draw_confusion_matrix(evaluation, False)
    assert figure is not None
    figure.canvas.draw()
    matrix, bar = figure.axes
    assert bar.get_ylim() == (0, 100)
    assert [text.get_text() for text in bar.get_yticklabels()][-1] == "100"
    (mesh,) = matrix.collections
    cells = np.asarray(mesh.get_facecolor()).reshape(4, 4, 4)
    shares = evaluation.confusion / evaluation.confusion.sum(axis=1, keepdims=True)
    np.fill_diagonal(shares, 0)
    row, column = np.unravel_index(shares.argmax(), shares.shape)
    assert np.allclose(cells[row, column], CONFUSION_COLOURS(np.sqrt(shares.max())), atol=0.01)


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("error", [0.02, 0.3, 1.0])
def test_markers_and_intervals_are_inside_their_panel(tall, error):
    evaluation = evaluation_of(10, error=error)
    for draw in (draw_class_errors, draw_reliability):
        figure = draw(evaluation, tall)
        assert figure is not None
        figure.canvas.draw()
        axes = figure.axes[0]
        panel = axes.get_window_extent()
        (bars,) = (item for item in axes.containers if isinstance(item, ErrorbarContainer))
        for artist in (bars.lines[0], *bars.lines[1]):
            x, y = axes.transData.transform(np.asarray(artist.get_xydata())).T
            radius = bars.lines[0].get_markersize() / 2 * figure.dpi / 72
            assert min(x) - radius > panel.x0
            assert max(x) + 1 < panel.x1
            assert min(y) - 1 > panel.y0
            assert max(y) + 1 < panel.y1


def test_captions_separate_the_error_from_its_interval():
    figures = draw_figures(evaluation_of(3))
    assert any("dot and bar: error, line: 95 % interval" in word for word in figure_strings(figures, "classes"))
    assert any("dot: accuracy, line: 95 % interval" in word for word in figure_strings(figures, "reliability"))
