"""`resnetlab lr-find`: output, figure, JSON, and what it leaves behind."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from helpers.images import write_tree
from helpers.photographs import write_photographs
from resnetlab.cli.lr_find import Options, _configuration, _print_start, print_curve
from resnetlab.cli.main import main
from resnetlab.config import DataConfig, Recipe, RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.training.lr_finder import LrCurve, LrSweep
from resnetlab.training.trainer import Trainer

SWEEP = ("--data", "digits", "--model", "resnet8", "--train-images", "100", "--batch-size", "20", "--steps", "12")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def printed(losses, diverged_lr=None):
    rates = tuple(LrSweep(1e-4, 1.0, len(losses)).lr_at(step) for step in range(len(losses)))
    out = io.StringIO()
    curve = LrCurve(rates, tuple(losses), tuple(losses), diverged_lr)
    print_curve(curve, Recipe(name="own", lr=0.3, batch_size=32), Console(file=out, width=80))
    assert max(map(len, out.getvalue().splitlines())) <= 80
    return " ".join(out.getvalue().split())


def test_the_sweep_leaves_nothing_but_its_figure(tmp_path, capsys):
    assert main(["lr-find", *SWEEP, "--figure", "lr.png"]) == 0
    output = capsys.readouterr()
    assert "resnet8 on digits, 100 training images: up to 12 steps of 20 images, recipe digits" in " ".join(
        output.out.split()
    )
    assert output.out.endswith("figure: lr.png\n")
    assert [path.name for path in tmp_path.iterdir()] == ["lr.png"]
    with Image.open(tmp_path / "lr.png") as figure:
        assert figure.format == "PNG"
        assert min(figure.size) > 300


def test_json_has_the_whole_curve(tmp_path, capsys):
    assert main(["lr-find", *SWEEP, "--json", "--min-lr", "1e-3", "--max-lr", "0.1"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert len(values["lr"]) == len(values["loss"]) == len(values["smoothed_loss"]) == 12
    assert (values["lr"][0], values["lr"][-1]) == (pytest.approx(1e-3), pytest.approx(0.1))
    assert values["lowest_lr"] in values["lr"]
    assert (values["batch_size"], values["diverged_lr"], values["figure"]) == (20, None, None)
    assert list(tmp_path.iterdir()) == []


def test_warnings_of_the_set_up_are_printed():
    trainer = Trainer(RunConfig(model_config("resnet8"), DataConfig(train_images=100), Recipe(batch_size=20)))
    trainer.warnings = ["class \x1b[2J is empty"]
    out = io.StringIO()
    _print_start(trainer, Console(file=out, width=80))
    assert out.getvalue().splitlines()[-1] == "warning: class \\u001b[2J is empty"


def test_the_suggestion_names_the_option_and_what_the_recipe_has():
    text = printed([2.3, 2.2, 1.9, 1.2, 1.0, 3.0, 9.0, 20, 40, 80, 99], diverged_lr=0.5)
    assert "The training diverged at 0.5; the smoothed loss is lowest at 0.00398." in text
    assert "suggested: --lr 0.0004, a tenth of that rate, for 32 images a step (the recipe own has 0.3)" in text
    assert "0.00398 1.0000 1.0000 lowest" in text


def test_without_a_fall_nothing_is_suggested():
    text = printed([2.30, 2.29, 2.31, 2.30, 2.28, 2.5, 2.6, 2.7, 2.8, 3.0])
    assert "No learning rate is suggested: the loss hardly falls at any of them." in text
    assert "--lr" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--figure", "lr.svg"), "--figure lr.svg: the figure is a PNG file; name it lr.png"),
        (("--figure", "none/lr.png"), "--figure none/lr.png: name a file in a folder that exists"),
        (("--min-lr", "1", "--max-lr", "0.1"), "min_lr 1 must be above 0 and below max_lr 0.1"),
        (("--steps", "3"), "steps must be at least 10, not 3"),
        (("--workers", "-1"), "workers must be at least 0, not -1"),
    ],
)
def test_a_wrong_call_is_refused_before_the_first_step(words, message, capsys, monkeypatch):
    monkeypatch.setattr("resnetlab.training.lr_finder.find_lr", lambda *_, **__: pytest.fail("too late"))
    assert main(["lr-find", "--data", "digits", "--model", "resnet8", *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"resnetlab: {message}"


def test_own_images_have_the_recipe_that_train_takes(tmp_path):
    write_tree(tmp_path / "photos", {"a": 30, "b": 30})
    config = _configuration(Options(data=str(tmp_path / "photos"), model="resnet8", set=("momentum=0.8",)))
    assert (config.recipe.name, config.recipe.batch_size, config.recipe.momentum) == ("scratch", 32, 0.8)
    named = _configuration(Options(data=str(tmp_path / "photos"), model="resnet8", recipe="cifar-paper"))
    assert (named.recipe.name, named.recipe.batch_size) == ("cifar-paper", 128)
    assert _configuration(Options(data="digits", model="resnet8", batch_size=64)).recipe.batch_size == 64


def test_own_images_have_the_network_and_the_weights_that_train_takes(tmp_path, monkeypatch):
    for name, sides in (("small", (30, 40)), ("large", (100, 120))):
        write_photographs(tmp_path / name, train=12, val=6, sides=sides)
    here = set()
    monkeypatch.setattr("resnetlab.models.pretrained.fetch.is_cached", lambda entry: entry.name in here)
    for name, network, weights in (
        ("small", "resnet20", "resnet20.akamaster_cifar10"),
        ("large", "resnet18", "resnet18.tv_in1k"),
    ):
        options = Options(data=str(tmp_path / name))
        config = _configuration(options)
        assert (config.model.name, config.weights, config.recipe.name) == (network, None, "scratch")
        here.add(weights)
        config = _configuration(options)
        assert (config.model.name, config.weights, config.recipe.name) == (network, weights, "finetune")
        assert _configuration(dataclasses.replace(options, weights=Path("none"))).weights is None
