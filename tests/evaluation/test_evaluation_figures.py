"""Figures: what they show, read back from the SVG; names in any script; thumbnails pixel by pixel."""

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from resnetlab.evaluation.figures import (
    LABEL_COLUMNS,
    THUMBNAIL,
    SvgFigure,
    confused_classes,
    draw_figures,
    label,
    thumbnail,
)
from resnetlab.evaluation.metrics import Evaluation, compute_metrics
from resnetlab.evaluation.predictions import Predictions

EVIL = ["<b>bold</b> & 'co'", "$\\frac{1$", "鳥 と 猫", "line\nend", "half \ud800 \x01 \ufffe", "é" * 300, "🦆"]


def made(num_classes: int, num_samples: int = 400, names: list[str] | None = None, error: float = 0.3) -> Evaluation:
    random = np.random.default_rng(0)
    labels = random.integers(0, num_classes, num_samples)
    first = np.where(random.random(num_samples) < error, random.integers(0, num_classes, num_samples), labels)
    top = np.stack([(first + step) % num_classes for step in range(min(5, num_classes))], axis=1)
    confidence = random.uniform(0.3, 1, num_samples)
    return compute_metrics(
        Predictions(np.arange(num_samples), labels, top, confidence, -np.log(confidence)),
        names or [f"n{number:03}" for number in range(num_classes)],
    )


def texts(svg: bytes) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"))


def words(svg: bytes) -> list[str]:
    """Every piece of text in a figure."""
    return ["".join(one.itertext()) for one in texts(svg)]


def drawn(figures: dict[str, SvgFigure | None], kind: str, form: str = "wide") -> list[str]:
    figure = figures[kind]
    assert figure is not None
    return words(getattr(figure, form))


def test_all_classes_with_their_counts():
    evaluation = made(3)
    figures = draw_figures(evaluation)
    assert set(drawn(figures, "confusion")) >= {f"{count:,}" for count in evaluation.confusion.flat}
    assert "all 3 classes, grey: right; colour: share of the true class's images" in drawn(figures, "confusion")
    said = drawn(figures, "classes")
    by_error = sorted(evaluation.per_class, key=lambda one: -one.error.pct if one.error else 0)
    assert [word for word in said if word.startswith("n0")] == [one.name for one in by_error]


@pytest.mark.parametrize("num_classes", [100, 1000])
def test_of_many_classes_the_worst(num_classes):
    evaluation = made(num_classes, 3 * num_classes)
    figures = draw_figures(evaluation)
    errors = {one.name: one.error.pct for one in evaluation.per_class if one.error}
    for form, most in (("wide", 30), ("tall", 15)):
        said = drawn(figures, "classes", form)
        shown = [word for word in said if re.fullmatch(r"n\d+", word)]
        assert len(shown) == len(set(shown)) == most
        assert min(errors[name] for name in shown) >= max(errors[name] for name in errors if name not in shown)
        assert any(f"the worst {most} of {len(errors):,} classes" in word for word in said)
        said = drawn(figures, "confusion", form)
        shown = [word for word in said if re.fullmatch(r"n\d+", word)]
        assert most - 1 <= len(set(shown)) <= most
        assert len(shown) == 2 * len(set(shown))  # at the rows and at the columns
        assert {evaluation.confusions[0].true, evaluation.confusions[0].predicted} <= set(shown)
        assert any(f"{len(set(shown))} of {num_classes:,} classes" in word for word in said)


def test_the_classes_of_the_most_frequent_confusions():
    matrix = np.diag([9] * 6)
    matrix[5, 2], matrix[0, 1], matrix[2, 3] = 4, 3, 2
    assert confused_classes(matrix, 6) == [0, 1, 2, 3, 4, 5]
    assert confused_classes(matrix, 5) == [0, 1, 2, 3, 5]
    assert confused_classes(matrix, 4) == [0, 1, 2, 5]
    assert confused_classes(matrix, 3) == [2, 5]
    assert confused_classes(np.diag([9] * 6), 5) == []


def test_without_mistakes():
    figures = draw_figures(made(40, error=0))
    assert figures["confusion"] is figures["classes"] is None
    assert figures["reliability"] is not None


def test_without_one_confidence():
    nothing = np.full(4, np.nan)
    judgement = Predictions(np.arange(4), np.arange(4) % 2, np.zeros((4, 2), dtype=np.int64), nothing, nothing)
    figures = draw_figures(compute_metrics(judgement, ["a", "b"]))
    assert figures["reliability"] is None
    assert figures["classes"] is not None


def test_names_of_every_kind_are_words():
    """Nothing is read as a formula or as XML, and a script that matplotlib's font lacks is no warning."""
    figures = draw_figures(made(len(EVIL), names=EVIL))
    for kind in ("confusion", "classes"):
        figure = figures[kind]
        assert figure is not None
        for svg in (figure.wide, figure.tall):
            said = words(svg)
            assert {"<b>bold</b> & 'co'", "$\\frac{1$", "鳥 と 猫", "line�end", "half � � �", "🦆"} <= set(said)
            assert ElementTree.fromstring(svg).find(".//{*}b") is None


def test_room_is_left_for_wide_characters():
    """In a browser a wide character is as wide as the font is high, and matplotlib does not have it."""
    name = "猫" * 12
    figure = draw_figures(made(2, names=[name, "b"]))["classes"]
    assert figure is not None
    (text,) = [one for one in texts(figure.wide) if "".join(one.itertext()) == name]
    assert "text-anchor: end" in text.attrib["style"]
    assert float(text.attrib["x"]) >= 9 * len(name)


def test_labels_are_short():
    assert label("tabby cat") == "tabby cat"
    assert label("a" * 20 + "b" * 20) == "a" * 12 + "…" + "b" * 11
    assert label("猫" * 12) == "猫" * 12
    assert len(label("猫" * 13)) <= LABEL_COLUMNS // 2
    assert label("plain\tname") == "plain�name"


def test_the_same_evaluation_gives_the_same_bytes():
    assert draw_figures(made(3)) == draw_figures(made(3))


def read(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_small_image_is_enlarged_pixel_by_pixel(channels):
    image = np.random.default_rng(0).integers(0, 256, (8, 5, channels), dtype=np.uint8)
    large = read(thumbnail(image))
    factor = THUMBNAIL // 8
    assert large.shape[:2] == (8 * factor, 5 * factor)
    for row in range(8):
        for column in range(5):
            block = large[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            assert (block.reshape(factor * factor, -1) == image[row, column]).all()


@pytest.mark.parametrize(
    ("shape", "size"), [((300, 600, 3), (96, 192)), ((1, 4000, 1), (1, 192)), ((100, 190, 3), (100, 190))]
)
def test_a_large_image_is_made_smaller(shape, size):
    small = read(thumbnail(np.full(shape, 77, dtype=np.uint8)))
    assert small.shape[:2] == size
    assert (small == 77).all()
