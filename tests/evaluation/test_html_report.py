"""The HTML page of an evaluation: metrics, escaping, no external resources, atomic writing, display in a browser."""

import base64
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetlab.evaluation.figures import FIGURES, SvgFigure
from resnetlab.evaluation.html_report import write_page
from resnetlab.evaluation.metrics import Evaluation, compute_metrics
from resnetlab.evaluation.predictions import Predictions
from resnetlab.evaluation.summary import EvaluationSummary

from conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

NAMES = ["<script>alert(1)</script>", "猫 & co", "w" * 200, "d", "e", "f", "g"]

SUMMARY = EvaluationSummary(
    title="resnet8 on <digits>",
    models=("resnet8",),
    files=("runs/a/model.safetensors",),
    data="digits",
    split="test split",
    protocol="one crop",
    command="resnetlab evaluate runs/a --page 'a & b.html'",
    provenance=(("recipe", "digits, 5 epochs"), ("seed", "3")),
)


def evaluation_of(names: list[str] = NAMES, num_samples: int = 60, every: int = 4) -> Evaluation:
    """Misclassify every fourth sample as the next class; later samples have a higher confidence."""
    rows = np.arange(num_samples)
    labels = rows % len(names)
    first = (labels + (rows % every == 0)) % len(names) if every else labels
    top = np.stack([(first + step) % len(names) for step in range(min(5, len(names)))], axis=1)
    confidence = 0.3 + 0.6 * rows / num_samples
    return compute_metrics(
        Predictions(positions=rows, labels=labels, top=top, confidence=confidence, loss=-np.log(confidence)),
        names,
        held_out=False,  # without label errors
    )


def write(
    folder: Path,
    evaluation: Evaluation,
    summary: EvaluationSummary = SUMMARY,
    thumbnails: list[np.ndarray] | None = None,
) -> str:
    write_page(folder / "page.html", evaluation, summary, thumbnails=thumbnails or [])
    return (folder / "page.html").read_text()


@pytest.fixture
def no_figures(monkeypatch):
    """Replace the figures, which take a second, by empty ones."""
    figure = SvgFigure(b"<svg/>", b"<svg/>")
    monkeypatch.setattr("resnetlab.evaluation.html_report.draw_figures", lambda _: dict.fromkeys(FIGURES, figure))


class Reader(HTMLParser):
    """Collect the tags, the external resources and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.resources: list[str] = []
        self.strings: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.strings).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.resources += [
            value
            for key, value in attrs
            if key in ("src", "srcset", "href", "action", "data", "poster") and value and not value.startswith("data:")
        ]

    def handle_data(self, data):
        if self.lasttag != "style":
            self.strings.append(data)


def test_the_page_has_the_metrics(tmp_path, no_figures):
    evaluation = evaluation_of()
    text = Reader(write(tmp_path, evaluation)).text
    assert evaluation.top1.num_wrong == 15
    assert "25.00 % top-1 error 95 % interval 15.78 to 37.23" in text
    assert f"{evaluation.top5.pct:.2f} % top-5 error" in text
    assert "evaluated on 60 images of digits (test split) with one crop" in text
    assert "15 of 60 images wrong" in text
    assert f"{evaluation.ece_pct:.2f} %: the mean gap" in text
    assert "correct on 75.00 %" in text
    assert "resnet8, runs/a/model.safetensors" in text
    assert "recipe digits, 5 epochs seed 3" in text
    assert "left out nothing" in text
    assert "To reproduce: resnetlab evaluate runs/a --page 'a & b.html'" in text


def test_a_row_for_each_class(tmp_path, no_figures):
    evaluation = evaluation_of([f"class {number}" for number in range(7)])
    text = Reader(write(tmp_path, evaluation)).text
    for item in evaluation.per_class:
        assert item.error is not None
        low, high = item.error.interval_95_pct
        assert f"{item.name} {item.num_samples} {item.error.pct:.2f} {low:.2f} to {high:.2f}" in text
    first = evaluation.confusions[0]
    assert f"{first.true} {first.predicted} {first.count} {first.share_pct:.2f}" in text


def test_a_class_without_images_has_no_error(tmp_path, no_figures):
    evaluation = evaluation_of([f"class {number}" for number in range(7)], num_samples=6)
    assert "class 6 0 – – –" in Reader(write(tmp_path, evaluation)).text


def test_names_are_escaped_and_there_are_no_external_resources(tmp_path):
    summary = replace(
        SUMMARY, notes=("<i>note</i>",), left_out=("<u>.png: cut",), num_left_out=1, data="<s>d</s>", protocol="<em>"
    )
    text = write(tmp_path, evaluation_of(), summary)
    page = Reader(text)
    assert not {"script", "iframe", "link", "object", "embed", "i", "u", "s", "em"} & set(page.tags)
    assert page.resources == []
    assert page.tags.count("img") == page.tags.count("source") == 4
    style = (ROOT / "src" / "resnetlab" / "html_style.css").read_text()
    assert style in text  # shared with the study report
    assert not re.findall(r"url\(|@import|http", text.split("<body>")[0])
    for string in ("<script>alert(1)</script>", "猫 & co", "<digits>", "<i>note</i>", "<u>.png: cut", "<s>d</s>"):
        assert string in page.text


def test_each_mistake_has_its_image(tmp_path, no_figures):
    evaluation = evaluation_of(["a", "b", "c"])
    shapes = [(8, 8, 1), (40, 30, 3), (300, 500, 3)]
    images = [np.full(shapes[at % 3], at, dtype=np.uint8) for at in range(15)]
    summary = replace(SUMMARY, mistake_names=tuple(f"dir/{item.position}.png" for item in evaluation.mistakes))
    text = write(tmp_path, evaluation, summary, images)
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)">', text)
    assert len(found) == 15
    for at, (content, alt) in enumerate(found):
        (tmp_path / "one.png").write_bytes(base64.b64decode(content))
        assert Image.open(tmp_path / "one.png").convert("RGB").getpixel((0, 0)) == (at, at, at)
        assert alt == f"{evaluation.mistakes[at].true}, predicted as {evaluation.mistakes[at].predicted}"
    text = Reader(text).text
    assert "c → a , 86 % dir/56.png" in text
    assert "All mistakes" in text


def test_only_the_most_confident_mistakes_are_shown(tmp_path, no_figures):
    text = Reader(write(tmp_path, evaluation_of(num_samples=400))).text
    assert "24 of 100 mistakes" in text
    assert text.count(" image ") == 24  # the position if there are no names


def test_only_certainty_is_printed_as_100_pct(tmp_path, no_figures):
    confidence = np.array([0.9949, 0.9951, 0.99999, 1.0])
    top = np.tile([1, 0], (4, 1))
    evaluation = compute_metrics(
        Predictions(
            positions=np.arange(4), labels=np.zeros(4, dtype=np.int64), top=top, confidence=confidence, loss=confidence
        ),
        ["a", "b"],
    )
    text = Reader(write(tmp_path, evaluation)).text
    assert [text.count(f"b , {confidence}") for confidence in ("99 %", "> 99 %", "100 %")] == [1, 2, 1]


def test_a_network_without_mistakes(tmp_path):
    page = Reader(write(tmp_path, evaluation_of(every=0)))
    assert "0.00 % top-1 error" in page.text
    assert "No class was confused with another." in page.text
    assert "confident mistakes" not in page.text
    assert page.tags.count("img") == 1  # calibration


def test_two_classes_have_no_top_5(tmp_path, no_figures):
    assert "top-5" not in Reader(write(tmp_path, evaluation_of(["yes", "no"]))).text.lower()


def test_a_broken_network(tmp_path):
    nothing = np.full(4, np.nan)
    predictions = Predictions(
        positions=np.arange(4),
        labels=np.arange(4) % 2,
        top=np.zeros((4, 2), dtype=np.int64),
        confidence=nothing,
        loss=nothing,
    )
    text = Reader(write(tmp_path, compute_metrics(predictions, ["a", "b"]))).text
    assert "100.00 % top-1 error" in text
    assert "No prediction for 4 images" in text
    assert "loss not finite" in text
    assert "nan" not in text.lower().split()


def test_undecodable_images_are_listed(tmp_path, no_figures):
    bad = tuple(f"train/{number}.jpg: truncated" for number in range(25))
    text = Reader(write(tmp_path, evaluation_of(), replace(SUMMARY, num_left_out=30, left_out=bad))).text
    assert "left out 30 images that cannot be decoded" in text
    assert "train/19.jpg: truncated and 10 more" in text
    text = Reader(write(tmp_path, evaluation_of(), replace(SUMMARY, num_left_out=2, left_out=bad[:2]))).text
    assert "train/1.jpg: truncated" in text
    assert "more" not in text.partition("Networks and data")[2]


def test_a_long_class_table_is_collapsed(tmp_path, no_figures):
    assert "<details open>" in write(tmp_path, evaluation_of([f"c{number}" for number in range(30)]))
    text = write(tmp_path, evaluation_of([f"c{number}" for number in range(31)], num_samples=300))
    assert "<details>" in text
    assert "All 31 classes" in text


def test_a_file_name_that_is_not_unicode(tmp_path, no_figures):
    summary = replace(SUMMARY, files=("run\udcff/model.safetensors",))
    assert "run?/model.safetensors" in write(tmp_path, evaluation_of(), summary)


def test_the_page_is_written_atomically(tmp_path, no_figures):
    before = write(tmp_path, evaluation_of())
    with pytest.raises(ValueError, match="2 thumbnails for 15 mistakes"):
        write(tmp_path, evaluation_of(), thumbnails=[np.zeros((8, 8, 1), dtype=np.uint8)] * 2)
    with pytest.raises(ValueError, match="1 names for 15 mistakes"):
        write(tmp_path, evaluation_of(), replace(SUMMARY, mistake_names=("one",)))
    assert (tmp_path / "page.html").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "nowhere", evaluation_of())


def test_no_column_is_hidden_and_no_caption_names_a_side(tmp_path):
    """On a phone tables scroll, with a shadow where columns follow, and panels are stacked."""
    page = write(tmp_path, evaluation_of())
    assert "display: none" not in page
    assert page.count('<div class="scroll"><table') == page.count("<table")
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.S)
    assert not [caption for caption in captions if re.search(r"\b(left|right)\b", caption, re.I)]
    assert any("from 0 to 100 % in every report" in caption for caption in captions)
    assert not any("with the most confusions" in caption for caption in captions if len(NAMES) <= 15)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1000, 500])
def test_the_page_in_a_browser(tmp_path, width):
    assert CHROMIUM is not None
    evaluation = evaluation_of()
    write(tmp_path, evaluation, thumbnails=[np.full((8, 8, 3), (1, 200, 3), dtype=np.uint8)] * len(evaluation.mistakes))
    arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},4000",
        "--hide-scrollbars",
        f"--screenshot={tmp_path / 'shot.png'}",
        f"file://{tmp_path / 'page.html'}",
    ]
    subprocess.run([CHROMIUM, *arguments], check=True, capture_output=True, timeout=90)
    image = Image.open(tmp_path / "shot.png").convert("RGB")
    colours = {colour for _, colour in image.getcolors(1 << 24) or []}
    assert {(0, 0x72, 0xB2), (0xE0, 0xE0, 0xE0), (1, 200, 3)} <= colours  # charts, confusions, thumbnails
