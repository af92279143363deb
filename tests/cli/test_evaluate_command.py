"""Unusual inputs of `resnetlab evaluate`: wide class names, a loss that is not finite, paths of the page."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from resnetlab.cli.console import EscapedConsole
from resnetlab.cli.evaluate_output import print_classes, print_evaluation
from resnetlab.cli.main import main
from resnetlab.cli.tables import table
from resnetlab.config import Preprocessing
from resnetlab.evaluation.metrics import compute_metrics
from resnetlab.evaluation.predictions import Predictions
from resnetlab.evaluation.summary import EvaluationSummary
from resnetlab.models.model_file import ModelCard, save_model
from resnetlab.models.zoo import build_model

SUMMARY = EvaluationSummary(
    title="resnet8 on digits",
    models=("resnet8",),
    files=("a.safetensors",),
    data="digits",
    split="test",
    protocol="one crop",
    command="",
)


def evaluation_of(names, loss=1.0):
    """Misclassify three of four samples of each class as the next class."""
    rows = np.arange(4 * len(names))
    labels = rows % len(names)
    first = (labels + (rows < 3 * len(names))) % len(names)
    top = np.stack([first, (first + 1) % len(names)], axis=1)
    predictions = Predictions(
        positions=rows, labels=labels, top=top, confidence=np.full(len(rows), 0.5), loss=np.full(len(rows), loss)
    )
    return compute_metrics(predictions, names)


def printed(print_to, width=80):
    console = EscapedConsole(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    print_to(console)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_loss_that_is_not_finite_is_reported():
    text = printed(lambda console: print_evaluation(evaluation_of(["a", "b"], np.nan), SUMMARY, console))
    assert "loss         not finite" in text


@pytest.mark.parametrize("width", [60, 80])
def test_wide_class_names_do_not_cut_numbers(width):
    names = [f"{number}{'信号機と横断歩道と自転車' * 3}" for number in range(10)]
    lines = printed(lambda console: print_classes(evaluation_of(names), console), width).splitlines()
    rows = [line for line in lines if "信" in line]
    assert len(rows) == 10
    assert all(" 4 75.00 30.06 to 95.44 " in " ".join(row.split()) for row in rows)
    assert all(cell_len(line) <= width for line in lines)


def test_top_k_of_all_classes_is_not_printed():
    for names, expected in (["ab", False], ["abc", True]):
        text = printed(lambda console, names=names: print_evaluation(evaluation_of(list(names)), SUMMARY, console))
        assert ("top-2 error" in text) == expected
        assert "top-1 error" in text


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("width", [20, 60, 80])
def test_no_table_cuts_a_number(is_terminal, width):
    """In a file or pipe it cuts no name either."""
    listing = table("class", *(f"number {index}" for index in range(6)), "more", left=1)
    listing.add_row("long-name-" * 4, *["1,234,567.89"] * 7)
    listing.add_row("b", *["1,234,567.89"] * 7)
    out = io.StringIO()
    EscapedConsole(file=out, width=width, force_terminal=is_terminal, color_system=None).print(listing)
    _, _, first, second = out.getvalue().splitlines()
    assert first.split()[1:] == second.split()[1:] == ["1,234,567.89"] * 7
    assert ("…" in first) == is_terminal
    assert is_terminal or first.startswith("long-name-" * 4)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_no_line_of_a_table_ends_with_spaces(is_terminal):
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=is_terminal, color_system=None)
    print_classes(evaluation_of(["a", "a long name", "b"]), console)
    lines = out.getvalue().splitlines()
    assert sum("a long name" in line for line in lines) == 2
    assert [line for line in lines if line != line.rstrip()] == []


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("evaluated") / "net.safetensors"
    network = build_model("resnet8", 10, in_channels=1, stage_channels=(4, 4, 4), generator=torch.Generator())
    save_model(path, network, ModelCard(network.config, tuple("0123456789"), Preprocessing(8, (0.5,), (0.5,))))
    return path


def test_impossible_pages_are_refused_before_evaluation(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("resnetlab.evaluation.evaluator.open_members", lambda *_, **__: pytest.fail("too late"))
    before = model.read_bytes()
    linked = tmp_path / "page.html"
    linked.symlink_to(model)
    (tmp_path / "file").write_text("x")
    for page, message in [
        (model, f"the page is an HTML file; name it {model.with_suffix('.html')}"),
        (tmp_path / "page", f"the page is an HTML file; name it {tmp_path / 'page.html'}"),
        (linked, "is an evaluated file, and would be overwritten"),
        (tmp_path, f"is a folder; name a file in it: {tmp_path / 'evaluation.html'}"),
        (tmp_path / "file" / "in" / "page.html", "file is a file, not a folder"),
    ]:
        assert main(["evaluate", str(model), "--data", "digits", "--page", str(page)]) == 2
        output = capsys.readouterr()
        assert message in output.err
        assert (output.err.count("\n"), output.out) == (1, "")
    assert model.read_bytes() == before


@pytest.mark.parametrize("as_json", [False, True])
def test_metrics_are_printed_if_the_page_cannot_be_written(model, tmp_path, capsys, monkeypatch, as_json):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "/somewhere/.page.html.x")

    monkeypatch.setattr("resnetlab.evaluation.html_report.write_page", full)
    arguments = ["--json", "--page", str(tmp_path / "page.html")] if as_json else []
    assert main(["evaluate", str(model), "--data", "digits", *arguments]) == 1
    output = capsys.readouterr()
    if as_json:
        assert json.loads(output.out)["num_samples"] > 0
    else:
        assert "top-1 error" in output.out
        assert "page: " not in output.out
    assert output.err.count("\n") == 1
    assert "html: the page cannot be written (No space left on device), the printed metrics are valid" in output.err
