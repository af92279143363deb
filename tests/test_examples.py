"""The examples run, print the documented output, and write their figure."""

import copy
import importlib.util
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score

from resnetlab.config import Preprocessing
from resnetlab.models.model_card import ModelCard
from resnetlab.models.model_file import save_model
from resnetlab.models.zoo import build_model

from conftest import ROOT

FILE = ROOT / "examples" / "segment_shapes.py"
MEAN_IOU = 65
"""Least mean IoU of the full run in %; docs/results/segment-shapes.txt has what it reached."""


def segment_shapes(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the example as a script, with warnings as errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", FILE, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", **environment},
        timeout=900,
        check=False,
    )


@pytest.fixture(scope="module")
def example():
    """The example, imported as a module."""
    spec = importlib.util.spec_from_file_location("segment_shapes", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def call(example, monkeypatch, tmp_path, capsys):
    """A function that runs the example in this process with 8 test images; returns status, output and errors."""

    def run(*words):
        monkeypatch.setattr(example, "NUM_TEST", 8)
        monkeypatch.setattr(sys, "argv", ["segment_shapes.py", *map(str, words), "--out", str(tmp_path / "out")])
        status = example.main()
        return status, *capsys.readouterr()

    return run


def mean_iou(printed):
    """Return the mean IoU in % of each row of the table."""
    rows = re.findall(r"^(always background|stem alone|all stages) +(\S+)((?: +\d+\.\d){4})$", printed, re.MULTILINE)
    for _, mean, classes in rows:
        assert float(mean) == pytest.approx(np.mean([float(x) for x in classes.split()]), abs=0.11)
    return {name: float(mean) for name, mean, _ in rows}


def small_network(channels=3):
    return build_model("resnet8", in_channels=channels, generator=torch.Generator().manual_seed(0))


def write_model(path, channels=3, pixel_mean=()):
    """Write a model file with random weights."""
    model, preprocessing = small_network(channels), Preprocessing(8, (0.4,) * channels, (0.2,) * channels, pixel_mean)
    save_model(path, model, ModelCard(model.config, tuple("0123456789"), preprocessing))
    return path


@pytest.mark.slow
@pytest.mark.timeout(1000)  # one minute on some machines, five on others
def test_the_full_run(tmp_path):
    done = segment_shapes("--out", "out", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    iou = mean_iou(done.stdout)
    assert list(iou) == ["always background", "stem alone", "all stages"]
    assert iou["all stages"] > MEAN_IOU
    assert iou["stem alone"] < 30, "deep maps are needed"
    steps = re.findall(r"^  step +(\d+)  loss \d+\.\d{3} +\d+\.\d s$", done.stdout, re.MULTILINE)
    assert steps == 2 * ["100", "200", "300", "400", "500", "600"]
    assert done.stdout.splitlines()[-1] == f"figure: {Path('out') / 'segments.png'}"
    with Image.open(tmp_path / "out" / "segments.png") as figure:
        pixels = np.asarray(figure.convert("RGB"))
    height, width, _ = pixels.shape
    truth = pixels[: int(0.9 * height), width // 4 : width // 2].reshape(-1, 3)  # without the legend below
    for colour in ((236, 236, 236), (0, 114, 178), (213, 94, 0), (0, 158, 115)):
        assert (truth == colour).all(1).sum() > 500, colour
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["segments.png"]


def test_it_starts_from_a_model_file(call, tmp_path, example):
    """The strides of a network for small images differ; its mean for each pixel is replaced by the channel mean."""
    file = write_model(tmp_path / "model.safetensors", pixel_mean=(0.5,) * (3 * 8 * 8))
    status, out, err = call("--steps", "1", "--from", file, "--freeze")
    assert (status, err) == (0, "")
    assert "all stages: a head on stem, stage1, stage2, stage3 of a frozen backbone\n" in out
    backbone, preprocessing = example.load_backbone(Namespace(file=str(file)))
    assert (preprocessing.mean, preprocessing.pixel_mean) == ((0.4,) * 3, ())
    assert torch.equal(backbone.get_parameter("conv1.weight"), small_network().get_parameter("conv1.weight"))


@pytest.mark.parametrize(("shortcut", "wired"), [(None, "project"), ("none", "none"), ("pad", "pad")])
def test_the_shortcut_can_be_chosen(example, shortcut, wired):
    backbone, _ = example.load_backbone(Namespace(file=None, backbone="resnet34", shortcut=shortcut))
    assert (backbone.config.shortcut, backbone.config.depth) == (wired, 34)


@pytest.mark.parametrize(
    "words",
    [("--backbone", "resnet19"), ("--shortcut", "B"), ("--from", "m.safetensors", "--shortcut", "none")],
)
def test_mistaken_backbones(tmp_path, words):
    done = segment_shapes(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) <= 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("frozen", [True, False])
def test_only_the_head_learns_with_a_frozen_backbone(example, frozen):
    backbone = small_network().requires_grad_(not frozen)
    model = example.Segmenter(backbone, list(backbone.feature_channels), Preprocessing(8, (0.5,) * 3, (0.25,) * 3))
    before = copy.deepcopy(model.state_dict())
    example.train(model, 2, np.random.default_rng(0))
    unchanged = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    unused = {"backbone.fc.weight", "backbone.fc.bias"}
    assert unchanged == ({key for key in before if key.startswith("backbone.")} if frozen else unused)


def test_images_of_any_size(example):
    backbone = build_model("resnet18", stage_channels=(4, 4, 4, 4))
    model = example.Segmenter(backbone, ["stem", "stage2", "stage4"], example.PREPROCESSING).eval()
    assert model(torch.zeros(2, 3, 75, 131, dtype=torch.uint8)).shape == (2, 4, 75, 131)


def test_errors_are_one_line(call, tmp_path):
    grey = write_model(tmp_path / "grey.safetensors", channels=1)
    (tmp_path / "text.safetensors").write_text("hello")
    for file, message in {
        grey: "reads 1-channel images; the example has 3",
        tmp_path / "text.safetensors": "cannot be read as safetensors",
        tmp_path / "missing.safetensors": "no such model file",
    }.items():
        status, _, err = call("--from", file)
        assert (status, err.count("\n")) == (2, 1)
        assert str(file) in err
        assert message in err
        assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("a file where the folder should be")
    status, _, err = call("--steps", "1")
    assert (status, err.count("\n")) == (1, 1)
    with pytest.raises(SystemExit) as stop:
        call("--steps", "0")
    assert stop.value.code == 2


def test_shapes_differ_in_shape_only(example):
    """All shapes have the same mean area and colour, and the background has the same mean colour."""
    area = {
        sides: np.mean([example.polygon(sides, np.random.default_rng(seed)).mean() for seed in range(100)])
        for sides in example.SIDES.values()
    }
    assert max(area.values()) < 1.06 * min(area.values()), area
    images, truth = example.make_images(100, np.random.default_rng(3))
    again, _ = example.make_images(100, np.random.default_rng(3))
    assert torch.equal(images, again)
    assert (images.dtype, images.shape, truth.shape) == (torch.uint8, (100, 3, 96, 96), (100, 96, 96))
    colour = [
        [
            float(image.float()[:, mask].mean())
            for image, labels in zip(images, truth, strict=True)
            if (mask := labels == index).any()
        ]
        for index in range(4)
    ]
    means = [np.mean(values) for values in colour]
    assert max(means) - min(means) < 12, "of 255"


def test_iou_is_that_of_scikit_learn(example, capsys):
    generator = torch.Generator().manual_seed(0)
    truth, predicted = torch.randint(4, (2, 3, 9, 9), generator=generator)
    example.print_iou({"all stages": predicted}, truth)
    expected = 100 * jaccard_score(truth.flatten(), predicted.flatten(), average="macro")
    assert mean_iou(capsys.readouterr().out)["all stages"] == pytest.approx(expected, abs=0.051)
