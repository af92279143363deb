"""`resnetlab landscape`: tables, JSON, figures, the page, continuing after a kill, and errors."""

import json
import math
import re
import shutil
import subprocess
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

import resnetlab
from resnetlab.cli.main import main
from resnetlab.config import ConfigError, DataConfig, ModelConfig, Preprocessing, Shortcut
from resnetlab.data.loader import sample_images
from resnetlab.data.open_dataset import open_data
from resnetlab.evaluation.landscapes.landscape_models import LandscapeResult
from resnetlab.evaluation.landscapes.landscape_page import script_json, write_page
from resnetlab.models.model_file import ModelCard, load_model, save_model
from resnetlab.models.zoo import build_model

from conftest import ROOT

NAME = "</script>$x$"
SMALL = ("--data", "digits", "--images", "32", "--points", "3", "--eigenvalues", "1")


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("resnetlab.system.figure_files.PNG_DPI", 40)


@pytest.fixture
def files(tmp_path):
    """A plain and a residual network that have not learnt."""
    paths = []
    named: tuple[tuple[str, Shortcut], ...] = (("plain8", "none"), (NAME, "pad"))
    for name, shortcut in named:
        config = ModelConfig(name, (1, 1), (4, 8), stem="cifar", shortcut=shortcut, num_classes=10, in_channels=1)
        rng = torch.Generator().manual_seed(0)
        model = build_model(config, generator=rng)
        model.train()(torch.randn(64, 1, 8, 8, generator=rng))
        path = tmp_path / f"{shortcut}.safetensors"
        save_model(path, model, ModelCard(config, tuple("0123456789"), Preprocessing(8, (0.3,), (0.3,))))
        paths.append(str(path))
    return paths


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr("resnetlab.cli.landscape.write_figures", lambda *_, **__: [])


def landscape(capsys, *words):
    assert main(["landscape", *map(str, words), *SMALL]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_tables_figures_and_page(files, tmp_path, capsys):
    out = tmp_path / "out"
    output = landscape(capsys, *files, "--out", out)
    assert output.startswith("digits, train split: 32 images, 3 x 3 points for each network\n")
    assert max(len(line) for line in output.splitlines() if str(tmp_path) not in line) <= 80
    figures = {f"{name}.{kind}" for name in ("lines", "contours", "surface") for kind in ("png", "svg")}
    names = {path.name for path in out.iterdir()} - {".lock"}
    assert names == figures | {"points-1.jsonl", "points-2.jsonl", "landscape.html"}
    page = (out / "landscape.html").read_text()
    assert page.count("</script>") == 1  # the name does not end the script
    assert "http" not in re.sub(r'http-equiv="', "", page)  # nothing is loaded
    data = json.loads(page.split("const networks = ")[1].partition(";\n")[0])
    points = [json.loads(line) for line in (out / "points-2.jsonl").read_text().splitlines()[1:]]
    assert data[1]["label"] == NAME
    assert data[1]["loss"][2][0] == pytest.approx(
        next(p["loss"] for p in points if (p["column"], p["row"]) == (0, 2)), rel=1e-4
    )


def test_the_function_measures_as_the_command_does(files, tmp_path, capsys, undrawn):
    printed = json.loads(landscape(capsys, *files, "--out", tmp_path / "out", "--json"))
    stages = []
    arguments: dict[str, Any] = {"max_images": 32, "num_points": 3, "num_eigenvalues": 1}
    measured = resnetlab.landscape(
        files, "digits", out=tmp_path / "own", on_progress=lambda stage, *_: stages.append(stage), **arguments
    )
    for result, entry in zip(measured, printed["networks"], strict=True):
        assert [list(row) for row in result.loss] == entry["loss"]
        assert list(result.curvature.eigenvalues if result.curvature else ()) == pytest.approx(
            entry["curvature"]["eigenvalues"], rel=1e-3
        )
    assert {stage.rpartition(": ")[2] for stage in stages} == {"points", "eigenvalues of the Hessian"}
    again = resnetlab.landscape(files, "digits", out=tmp_path / "own", **arguments)
    assert [result.num_reused for result in again] == [9, 9]
    with pytest.raises(ConfigError, match="states are for a plane of one network"):
        resnetlab.landscape(files, "digits", states=files[:1], **arguments)


def test_script_of_the_page(tmp_path):
    """A circle at the network, a value where the pointer is, and surfaces that turn: without a browser."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js")
    rows = ((3.0, 2.0, 3.0), (2.0, 0.5, math.nan), (3.0, 2.0, 40.0))
    steps = (-1.0, 0.0, 1.0)
    result = LandscapeResult(
        network="tiny",
        num_images=9,
        xs=steps,
        ys=steps,
        loss=rows,
        error_pct=((90.0, 50.0, 90.0),) * 3,
        centre=(0.5, 50.0),
        curvature=None,
    )
    write_page(tmp_path / "page.html", [result, result], ["tiny", NAME], title="digits")
    words = [node, ROOT / "tests" / "helpers" / "landscape_page.js", tmp_path / "page.html"]
    seen = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert seen["captions"] == ["tiny", NAME]
    assert seen["faces"] == 4
    assert seen["reading"] == "steps 0.0, 0.0: loss 0.500, error 50.0 %"
    assert seen["turned"] == pytest.approx(0.5)
    assert seen["recoloured"]
    assert seen["turnedAfterCancel"] == pytest.approx(0.05)
    assert not seen["stillFromAbove"]
    assert seen["fromAboveByKey"]
    assert seen["role"] == "application"  # arrow keys turn it
    assert seen["places"]  # although no loss is finite


def test_a_killed_measurement_ends_as_an_undisturbed_one(files, tmp_path, capsys, undrawn):
    whole = json.loads(landscape(capsys, files[1], "--out", tmp_path / "a", "--json"))
    path = tmp_path / "b" / "points-1.jsonl"
    path.parent.mkdir()
    lines = (tmp_path / "a" / "points-1.jsonl").read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:9])
    continued = json.loads(landscape(capsys, files[1], "--out", tmp_path / "b", "--json"))
    assert path.read_bytes() == b"".join(lines)
    assert continued["networks"][0].pop("num_reused") == 4
    assert whole["networks"][0].pop("num_reused") == 0
    assert continued["networks"] == whole["networks"]
    assert whole["networks"][0]["curvature"]["eigenvalues"][0] > max(whole["networks"][0]["curvature"]["along"])


def test_plane_through_states(files, tmp_path, capsys, undrawn):
    model, card = load_model(files[1])
    states = []
    for number, (x, y) in enumerate(((3.0, 0.0), (1.0, 1.0))):
        with torch.no_grad():
            moved = build_model(card.model)
            moved.load_state_dict(model.state_dict())
            moved.get_parameter("conv1.weight").add_(x)
            moved.get_parameter("fc.weight").add_(y)
        states.append(str(tmp_path / f"state-{number}.safetensors"))
        save_model(states[-1], moved, card)
    output = landscape(capsys, files[1], "--out", tmp_path / "out", "--states", *states, "--json")
    network = json.loads(output)["networks"][0]
    assert sum(network["explained"]) == pytest.approx(1)
    assert network["states"][-1] == pytest.approx([0, 0], abs=1e-5)
    images, labels = sample_images(open_data(DataConfig("digits", image_size=8)).train, card.preprocessing, 32)
    with torch.no_grad():  # no point of the grid is the network itself
        assert network["centre"]["loss"] == pytest.approx(cross_entropy(model(images), labels).item(), rel=1e-5)
    lengths = [math.hypot(*state) for state in network["states"]]
    assert lengths[0] == pytest.approx(3 * math.sqrt(model.get_parameter("conv1.weight").numel()), rel=1e-3)
    assert min(network["xs"]) < min(x for x, _ in network["states"])


def test_line(files, tmp_path, capsys):
    output = landscape(capsys, files[0], "--dimensions", "1", "--out", tmp_path / "out")
    assert "32 images, 3 points for each network" in output
    assert {path.name for path in (tmp_path / "out").iterdir()} - {".lock"} == {
        "lines.png",
        "lines.svg",
        "points-1.jsonl",
    }


def test_names_cannot_end_a_script():
    assert script_json(["</script><!--&"]) == '["\\u003c/script\\u003e\\u003c!--\\u0026"]'


def test_errors_are_one_line(files, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "points-1.jsonl").write_text('{"version": 1, "network": "resnet20"}\n')
    for words, message in [
        ([], "name at least one model file or run directory"),
        ([files[0], "--points", "4"], "points must be an odd number of at least 3, not 4"),
        ([files[0], "--extent", "0"], "extent must be a finite number above 0, not 0"),
        ([files[0], "--extent", "inf"], "extent must be a finite number above 0, not inf"),
        ([files[0], "--time", "inf"], "time must be a finite number above 0, not inf"),
        ([files[0], "--eigenvalues", "-1"], "eigenvalues must be at least 0, not -1"),
        ([*files, "--states", files[0]], "states are for a plane of one network"),
        ([files[0], "--states", files[0], "--points", "3"], "at least 3 states of the run, and there are 2"),
        (
            [files[0], "--states", str(tmp_path / "other")],
            "other keeps no states of its run; train it with --keep-states 1",
        ),
        ([files[0], "--out", str(tmp_path / "file")], "is a file; name a folder"),
        ([files[0], "--out", str(tmp_path / "other"), "--points", "3"], "its network is resnet20, not plain8"),
    ]:
        assert main(["landscape", *words, "--data", "digits"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
