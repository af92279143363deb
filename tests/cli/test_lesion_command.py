"""`resnetlab lesion`: tables, JSON, figures and errors."""

import dataclasses
import json

import pytest
import torch

import resnetlab
from resnetlab.cli.main import main
from resnetlab.config import ModelConfig, Preprocessing, Shortcut
from resnetlab.models.model_file import ModelCard, save_model
from resnetlab.models.zoo import build_model

DIGITS = tuple("0123456789")
SMALL = (
    "--data",
    "digits",
    "--images",
    "40",
    "--repeats",
    "1",
    "--most-removed",
    "2",
    "--most-swaps",
    "2",
    "--paths",
    "2",
)


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def files(tmp_path):
    """A plain and a residual network that have not learnt; one has its classes in another order."""
    paths = []
    named: tuple[tuple[str, Shortcut, tuple[str, ...]], ...]
    named = (("plain8", "none", DIGITS), ("cost $x$", "pad", DIGITS[::-1]))
    for name, shortcut, classes in named:
        config = ModelConfig(name, (2, 2), (4, 8), stem="cifar", shortcut=shortcut, num_classes=10, in_channels=1)
        model = build_model(config, generator=torch.Generator().manual_seed(0))
        model.train()(torch.randn(64, 1, 8, 8))
        path = tmp_path / f"{shortcut}.safetensors"
        save_model(path, model, ModelCard(config, classes, Preprocessing(8, (0.3,), (0.3,))))
        paths.append(str(path))
    return paths


def test_tables_and_figures(files, tmp_path, capsys):
    out = tmp_path / "figures"
    assert main(["lesion", *files, *SMALL, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0].startswith("digits, test split: 40 of 270 images")
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    assert "one block of layer2 removed" in captured.out
    assert "plain8 is plain: where a removed block changes the shape" in " ".join(captured.out.split())
    assert "it has little to lose" in " ".join(captured.out.split())
    assert {path.name for path in out.iterdir()} == {"lesion.png", "lesion.svg", "paths.png", "paths.svg"}
    assert "cost" in (out / "lesion.svg").read_text()


def test_json_is_that_of_the_function(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("resnetlab.evaluation.lesions.lesion_figures.draw_lesions", lambda *_: [])
    assert main(["lesion", *files, *SMALL, "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    results = resnetlab.lesion(files, "digits", max_images=40, repeats=1, most_removed=2, most_swaps=2, paths=2)
    for result, stored in zip(results, output["networks"], strict=True):
        assert stored.pop("label") == result.network
        assert stored == json.loads(json.dumps(dataclasses.asdict(result)))
    assert not list(tmp_path.glob("*-lesion"))


def test_classes_in_another_order_have_the_same_errors(files, capsys):
    """The same weights, with the rows of the head and the classes reversed."""
    first = resnetlab.load_model(files[1])
    model, card = first
    model.fc.weight.data = model.fc.weight.data.flip(0)
    save_model(files[0], model, dataclasses.replace(card, classes=card.classes[::-1]))
    one, other = resnetlab.lesion(files, "digits", max_images=100, repeats=1, most_removed=1, most_swaps=0, paths=0)
    assert one.error_pct == other.error_pct
    assert one.without_block == other.without_block


def test_errors_are_one_line(files, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for words, message in [
        ([], "name at least one model file or run directory"),
        ([files[0], "--data", "digit"], "did you mean digits?"),
        ([files[0], "--repeats", "0"], "repeats must be at least 1, not 0"),
        ([files[0], "--data", "digits", "--images", "0"], "images must be at least 1, not 0"),
        ([files[0], "--out", str(tmp_path / "file"), "--data", "digits"], "is a file; name a folder"),
        ([files[0], "--out", str(tmp_path / "file" / "new"), "--data", "digits"], "file is a file, not a folder"),
        ([files[0]], "does not name its training data; name images with --data"),
        ([str(tmp_path / "nothing")], "nothing"),
    ]:
        assert main(["lesion", *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
