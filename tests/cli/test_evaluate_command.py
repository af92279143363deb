"""`resnetlab evaluate` as a person meets it where something is unusual: names, numbers, the place of the page."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from resnetlab.cli.evaluate_output import print_classes, print_evaluation
from resnetlab.cli.main import main
from resnetlab.config import Preprocessing
from resnetlab.evaluation.html_report import EvaluationSummary
from resnetlab.evaluation.metrics import compute_metrics
from resnetlab.evaluation.predictions import Predictions
from resnetlab.models.model_file import ModelCard, save_model
from resnetlab.models.zoo import build_model

FACTS = EvaluationSummary("resnet8 on digits", ("resnet8",), ("a.safetensors",), "digits", "test", "one crop", "")


def judged(names, loss=1.0):
    """Each of the classes is taken for the next three times of four."""
    rows = np.arange(4 * len(names))
    labels = rows % len(names)
    first = (labels + (rows < 3 * len(names))) % len(names)
    top = np.stack([first, (first + 1) % len(names)], axis=1)
    return compute_metrics(Predictions(rows, labels, top, np.full(len(rows), 0.5), np.full(len(rows), loss)), names)


def printed(show, width=80):
    console = Console(file=io.StringIO(), width=width)
    show(console)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_loss_that_is_not_finite_is_said_so():
    words = printed(lambda console: print_evaluation(judged(["a", "b"], np.nan), FACTS, console))
    assert "loss         not finite" in words


@pytest.mark.parametrize("width", [60, 80])
def test_names_of_wide_letters_do_not_cut_numbers(width):
    names = [f"{number}{'信号機と横断歩道と自転車' * 3}" for number in range(10)]
    lines = printed(lambda console: print_classes(judged(names), console), width).splitlines()
    rows = [line for line in lines if "信" in line]
    assert len(rows) == 10
    assert all(" 4 75.00 30.06 to 95.44 " in " ".join(row.split()) for row in rows)
    assert all(cell_len(line) <= width for line in lines)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("evaluated") / "net.safetensors"
    network = build_model("resnet8", 10, in_channels=1, stage_channels=(4, 4, 4), generator=torch.Generator())
    save_model(path, network, ModelCard(network.config, tuple("0123456789"), Preprocessing(8, (0.5,), (0.5,))))
    return path


def test_places_where_no_page_can_be_are_refused_before_the_work(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("resnetlab.evaluation.evaluator.open_members", lambda *_: pytest.fail("too late"))
    before = model.read_bytes()
    linked = tmp_path / "page.html"
    linked.symlink_to(model)
    (tmp_path / "file").write_text("x")
    for page, message in [
        (model, f"a page is HTML, and .safetensors means something else; call it {model.with_suffix('.html')}"),
        (tmp_path / "page", f"no suffix means something else; call it {tmp_path / 'page.html'}"),
        (linked, "is what is judged, and would be overwritten"),
        (tmp_path, f"is a folder; name a file in it: {tmp_path / 'evaluation.html'}"),
        (tmp_path / "file" / "in" / "page.html", "file is a file, and nothing can be in it"),
    ]:
        assert main(["evaluate", str(model), "--data", "digits", "--page", str(page)]) == 2
        said = capsys.readouterr()
        assert message in said.err
        assert (said.err.count("\n"), said.out) == (1, "")
    assert model.read_bytes() == before


@pytest.mark.parametrize("as_json", [False, True])
def test_numbers_are_printed_although_the_page_cannot_be_written(model, tmp_path, capsys, monkeypatch, as_json):
    def full(*_):
        raise OSError(28, "No space left on device", "/somewhere/.page.html.x")

    monkeypatch.setattr("resnetlab.evaluation.html_report.write_page", full)
    words = ["--json", "--page", str(tmp_path / "page.html")] if as_json else []
    assert main(["evaluate", str(model), "--data", "digits", *words]) == 1
    said = capsys.readouterr()
    if as_json:
        assert json.loads(said.out)["num_samples"] > 0
    else:
        assert "top-1 error" in said.out
        assert "page: " not in said.out
    assert said.err.count("\n") == 1
    assert "html: the page cannot be written (No space left on device), and what was printed stands" in said.err
