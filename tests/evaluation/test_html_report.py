"""The page of an evaluation: its numbers, every name escaped, nothing fetched, written whole, seen in a browser."""

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

from resnetlab.evaluation.figures import KINDS, SvgFigure
from resnetlab.evaluation.html_report import EvaluationSummary, write_page
from resnetlab.evaluation.metrics import Evaluation, compute_metrics
from resnetlab.evaluation.predictions import Predictions

from conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

NAMES = ["<script>alert(1)</script>", "猫 & co", "w" * 200, "d", "e", "f", "g"]

FACTS = EvaluationSummary(
    title="resnet8 on <digits>",
    models=("resnet8",),
    files=("runs/a/model.safetensors",),
    data="digits",
    split="test split",
    protocol="the single view",
    command="resnetlab evaluate runs/a --report 'a & b.html'",
    provenance=(("recipe", "digits, 5 epochs"), ("seed", "3")),
)


def made(names: list[str] = NAMES, num_samples: int = 60, every: int = 4) -> Evaluation:
    """Every fourth sample is taken for the next class, the later the more confidently."""
    rows = np.arange(num_samples)
    labels = rows % len(names)
    first = (labels + (rows % every == 0)) % len(names) if every else labels
    top = np.stack([(first + step) % len(names) for step in range(min(5, len(names)))], axis=1)
    confidence = 0.3 + 0.6 * rows / num_samples
    return compute_metrics(Predictions(rows, labels, top, confidence, -np.log(confidence)), names)


def write(
    folder: Path, evaluation: Evaluation, facts: EvaluationSummary = FACTS, thumbnails: list[np.ndarray] | None = None
) -> str:
    write_page(folder / "page.html", evaluation, facts, thumbnails or [])
    return (folder / "page.html").read_text()


@pytest.fixture
def undrawn(monkeypatch):
    """For what does not look at the charts, which take a second."""
    chart = SvgFigure(b"<svg/>", b"<svg/>")
    monkeypatch.setattr("resnetlab.evaluation.html_report.draw", lambda _: dict.fromkeys(KINDS, chart))


class Reader(HTMLParser):
    """Collects the tags, what would be fetched, and the words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.said: list[str] = []
        self.feed(text)
        self.words = " ".join(" ".join(self.said).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [
            value
            for key, value in attrs
            if key in ("src", "srcset", "href", "action", "data", "poster") and value and not value.startswith("data:")
        ]

    def handle_data(self, data):
        if self.lasttag != "style":
            self.said.append(data)


def test_the_numbers_stand_on_the_page(tmp_path, undrawn):
    evaluation = made()
    words = Reader(write(tmp_path, evaluation)).words
    assert evaluation.top1.num_wrong == 15
    assert "25.00 % top-1 error 95 % interval 15.78 to 37.23" in words
    assert f"{evaluation.top5.pct:.2f} % top-5 error" in words
    assert "judged on 60 images of digits (test split) by the single view" in words
    assert "15 of 60 images wrong" in words
    assert f"{evaluation.ece_pct:.2f} %: so far apart" in words
    assert "right in 75.00 %" in words
    assert "resnet8, runs/a/model.safetensors" in words
    assert "recipe digits, 5 epochs seed 3" in words
    assert "left out nothing" in words
    assert "resnetlab evaluate runs/a --report 'a & b.html' makes it again" in words


def test_a_row_for_each_class(tmp_path, undrawn):
    evaluation = made([f"class {number}" for number in range(7)])
    words = Reader(write(tmp_path, evaluation)).words
    for one in evaluation.per_class:
        assert one.error is not None
        low, high = one.error.interval_95_pct
        assert f"{one.name} {one.num_samples} {one.error.pct:.2f} {low:.2f} to {high:.2f}" in words
    first = evaluation.confusions[0]
    assert f"{first.true} {first.predicted} {first.count} {first.share_pct:.2f}" in words


def test_a_class_without_images_has_no_error(tmp_path, undrawn):
    evaluation = made([f"class {number}" for number in range(7)], num_samples=6)
    assert "class 6 0 – – –" in Reader(write(tmp_path, evaluation)).words


def test_everything_is_escaped_and_nothing_is_fetched(tmp_path):
    evil = replace(
        FACTS, notes=("<i>note</i>",), left_out=("<u>.png: cut",), num_left_out=1, data="<s>d</s>", protocol="<em>"
    )
    text = write(tmp_path, made(), evil)
    page = Reader(text)
    assert not {"script", "iframe", "link", "object", "embed", "i", "u", "s", "em"} & set(page.tags)
    assert page.fetched == []
    assert page.tags.count("img") == page.tags.count("source") == 3
    style = (ROOT / "src" / "resnetlab" / "html_style.css").read_text()
    assert style in text  # that of the study report
    assert not re.findall(r"url\(|@import|http", text.split("<body>")[0])
    for word in ("<script>alert(1)</script>", "猫 & co", "<digits>", "<i>note</i>", "<u>.png: cut", "<s>d</s>"):
        assert word in page.words


def test_each_mistake_has_its_picture(tmp_path, undrawn):
    evaluation = made(["a", "b", "c"])
    shapes = [(8, 8, 1), (40, 30, 3), (300, 500, 3)]
    pictures = [np.full(shapes[at % 3], at, dtype=np.uint8) for at in range(15)]
    facts = replace(FACTS, mistake_names=tuple(f"dir/{one.position}.png" for one in evaluation.mistakes))
    text = write(tmp_path, evaluation, facts, pictures)
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)">', text)
    assert len(found) == 15
    for at, (content, alt) in enumerate(found):
        (tmp_path / "one.png").write_bytes(base64.b64decode(content))
        assert Image.open(tmp_path / "one.png").convert("RGB").getpixel((0, 0)) == (at, at, at)
        assert alt == f"{evaluation.mistakes[at].true}, taken for {evaluation.mistakes[at].predicted}"
    words = Reader(text).words
    assert "c → a , 86 % dir/56.png" in words
    assert "All mistakes" in words


def test_more_mistakes_than_are_shown(tmp_path, undrawn):
    words = Reader(write(tmp_path, made(num_samples=400))).words
    assert "24 of 100 mistakes" in words
    assert words.count(" image ") == 24  # without names the position


def test_nearly_certain_is_not_certain(tmp_path, undrawn):
    confidence = np.array([0.9949, 0.9951, 0.99999, 1.0])
    top = np.tile([1, 0], (4, 1))
    evaluation = compute_metrics(
        Predictions(np.arange(4), np.zeros(4, dtype=np.int64), top, confidence, confidence), ["a", "b"]
    )
    words = Reader(write(tmp_path, evaluation)).words
    assert [words.count(f"b , {said}") for said in ("99 %", "> 99 %", "100 %")] == [1, 2, 1]


def test_without_a_mistake(tmp_path):
    page = Reader(write(tmp_path, made(every=0)))
    assert "0.00 % top-1 error" in page.words
    assert "No class was taken for another." in page.words
    assert "confident mistakes" not in page.words
    assert page.tags.count("img") == 1  # calibration


def test_two_classes_have_no_top_5(tmp_path, undrawn):
    assert "top-5" not in Reader(write(tmp_path, made(["yes", "no"]))).words.lower()


def test_a_broken_network(tmp_path):
    nothing = np.full(4, np.nan)
    judgement = Predictions(np.arange(4), np.arange(4) % 2, np.zeros((4, 2), dtype=np.int64), nothing, nothing)
    words = Reader(write(tmp_path, compute_metrics(judgement, ["a", "b"]))).words
    assert "100.00 % top-1 error" in words
    assert "No answer for 4 images" in words
    assert "loss not finite" in words
    assert "nan" not in words.lower().split()


def test_what_was_left_out_is_named(tmp_path, undrawn):
    bad = tuple(f"train/{number}.jpg: truncated" for number in range(25))
    words = Reader(write(tmp_path, made(), replace(FACTS, num_left_out=30, left_out=bad))).words
    assert "left out 30 images that cannot be read" in words
    assert "train/19.jpg: truncated and 10 more" in words
    words = Reader(write(tmp_path, made(), replace(FACTS, num_left_out=2, left_out=bad[:2]))).words
    assert "train/1.jpg: truncated" in words
    assert "more" not in words.partition("What was judged")[2]


def test_many_classes_are_folded(tmp_path, undrawn):
    assert "<details open>" in write(tmp_path, made([f"c{number}" for number in range(30)]))
    text = write(tmp_path, made([f"c{number}" for number in range(31)], num_samples=300))
    assert "<details>" in text
    assert "All 31 classes" in text


def test_a_file_name_that_is_no_unicode(tmp_path, undrawn):
    facts = replace(FACTS, files=("run\udcff/model.safetensors",))
    assert "run?/model.safetensors" in write(tmp_path, made(), facts)


def test_written_whole_or_not_at_all(tmp_path, undrawn):
    before = write(tmp_path, made())
    with pytest.raises(ValueError, match="2 thumbnails for 15 mistakes"):
        write(tmp_path, made(), thumbnails=[np.zeros((8, 8, 1), dtype=np.uint8)] * 2)
    with pytest.raises(ValueError, match="1 mistake_names for 15 mistakes"):
        write(tmp_path, made(), replace(FACTS, mistake_names=("one",)))
    assert (tmp_path / "page.html").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "nowhere", made())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1000, 500])
def test_the_page_in_a_browser(tmp_path, width):
    assert CHROMIUM is not None
    evaluation = made()
    write(tmp_path, evaluation, thumbnails=[np.full((8, 8, 3), (1, 200, 3), dtype=np.uint8)] * len(evaluation.mistakes))
    shot = [
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
    subprocess.run([CHROMIUM, *shot], check=True, capture_output=True, timeout=90)
    image = Image.open(tmp_path / "shot.png").convert("RGB")
    colours = {colour for _, colour in image.getcolors(1 << 24) or []}
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0), (1, 200, 3)} <= colours  # charts, confusions, thumbnails
