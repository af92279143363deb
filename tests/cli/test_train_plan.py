"""`resnetlab train` on one's own images: asked once, planned once, said in three lines, refused above a day."""

import io
import itertools
import json
import re
import shutil
import signal
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from resnetlab.cli import train, train_config, train_plan
from resnetlab.cli.main import main, parse
from resnetlab.cli.train_plan_output import RunSummary
from resnetlab.config import ConfigError, RunConfig, read_config
from resnetlab.models.model_file import load_model
from resnetlab.models.pretrained.catalogue import CATALOGUE
from resnetlab.models.zoo import model_config
from resnetlab.system.download import DownloadError
from resnetlab.training import plan_run
from resnetlab.training.execution import select_execution
from resnetlab.training.execution.execution import Execution
from resnetlab.training.recipes import recipe
from resnetlab.training.signal_handling import InterruptedRunError

WEIGHTS = "resnet18.tv_in1k"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Forty images of 12 pixels in two classes, one of them with a name in another script."""
    root = tmp_path_factory.mktemp("plan") / "photos"
    rng = np.random.default_rng(0)
    for kind, index in itertools.product(("cat", "größe"), range(20)):
        (root / kind).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 200, (12, 12, 3), dtype=np.uint8) + np.uint8(50 * (kind == "cat"))
        Image.fromarray(pixels).save(root / kind / f"{index}.png")
    return root


@pytest.fixture
def run(photos, tmp_path, monkeypatch, capsys):
    """A function that trains on the images in this process: status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("RESNETLAB_CACHE", str(tmp_path / "cache"))

    def call(*words):
        status = main(["train", "--data", str(photos), *words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def test_a_folder_is_enough(run, tmp_path):
    status, out, err = run("--epochs", "2")
    assert (status, err) == (0, "")
    assert "train    resnet20 from random weights on photos: 32 images, 2 classes" in out
    assert re.search(r"how      recipe scratch, 12 pixels, 2 epochs, batches of 32, fp32, \d+ threads?\n", out)
    assert "time     less than a minute" in out
    before_the_end = out.partition("model file:")[0]  # the next commands name the whole path of the images
    assert [line for line in before_the_end.splitlines() if len(line) > 80] == []
    config = read_config(tmp_path / "runs" / "photos-seed0" / "config.json")
    assert (config.recipe.name, config.recipe.epochs, config.weights) == ("scratch", 2, None)
    status, _, err = run("--epochs", "3")
    assert (status, "recipe.epochs: 2 -> 3" in err) == (2, True)


def test_a_named_recipe_trains_the_network_of_the_images(run, tmp_path):
    words = ("--recipe", "cifar-paper", "--set", "normalise=channel", "--batch-size", "16", "--steps", "2")
    assert run(*words)[0] == 0
    status, out, _ = run(*words)
    assert (status, "nothing was trained" in out) == (0, True)
    config = read_config(tmp_path / "runs" / "photos-seed0" / "config.json")
    assert (config.model.name, config.recipe.name, config.recipe.batch_size) == ("resnet20", "cifar-paper", 16)
    assert config.compile == "auto"
    status, _, err = run("--recipe", "finetune", "--fresh")
    assert (status, "recipe finetune needs trained weights; name a model file with --from" in err) == (2, True)


def test_options_of_fine_tuning_wait_for_the_weights(photos):
    """The plan looks for weights; the configuration without it has none."""
    for words in (("--frozen-epochs", "2"), ("--freeze-bn", "on"), ("--recipe", "finetune")):
        options = parse(train.Options, "train", ("--data", str(photos), *words))
        assert train_config.new_config(options).weights is None
        assert main(["train", "--data", str(photos), *words, "--from", "none"]) == 2


def test_a_finished_run_says_that_nothing_was_trained(run, photos):
    _, out, _ = run("--steps", "2")
    assert "nothing was trained" not in out
    line = "The run in runs/photos-seed0 is finished, nothing was trained; start over with --fresh, or name another "
    status, out, err = run("--steps", "2")
    assert (status, err) == (0, "")
    assert [line in out, out.index(line) < out.index("errors: train"), "warning" in out] == [True, True, False]
    added = photos / "cat" / "new.png"
    shutil.copy(photos / "cat" / "0.png", added)
    try:
        status, out, err = run("--steps", "2", "--json")
    finally:
        added.unlink()
    assert json.loads(out)["out"] == "runs/photos-seed0"
    assert line in err
    assert f"warning: {photos} had 40 images then, and has 41 now\n" in err


def test_the_plan_is_made_once_and_stored(run, tmp_path, monkeypatch):
    """The second call finds another speed and would plan another length: the stored one counts."""
    monkeypatch.setattr(plan_run, "select_execution", fake_speed(400.0))
    status, out, _ = run("--minutes", "0.02", "--threads", "1")
    assert status == 0
    stored = read_config(tmp_path / "runs" / "photos-seed0" / "config.json")
    assert (stored.minutes, stored.threads, stored.precision) == (0.02, 1, "fp32")
    assert "about 1 s, until" in out
    monkeypatch.setattr(plan_run, "select_execution", lambda *_, **__: pytest.fail("measured again"))
    for words in ((), ("--minutes", "0.02"), ("--minutes", "0.02", "--recipe", "scratch")):
        assert run(*words, "--out", "runs/photos-seed0")[0] == 0
    assert read_config(tmp_path / "runs" / "photos-seed0" / "config.json") == stored
    status, _, err = run("--minutes", "1")
    assert (status, "--minutes plans a new run; add --fresh" in err) == (2, True)


def test_an_interrupted_plan_ends_like_an_uninterrupted_one(run, tmp_path, monkeypatch):
    """The second session finds a slower machine, and takes the length, size and execution of the first."""
    words = ("--minutes", "0.02", "--threads", "1", "--seed", "3")
    monkeypatch.setattr(plan_run, "select_execution", fake_speed(400.0))
    assert run(*words, "--out", "whole")[0] == 0

    def interrupt(_summary, _trainer, metrics):
        if metrics.step == 5:
            raise InterruptedRunError(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(RunSummary, "on_step", interrupt)
        assert run(*words, "--out", "parts")[0] == 143
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    monkeypatch.setattr(plan_run, "select_execution", fake_speed(40.0))
    assert run(*words, "--out", "parts")[0] == 0
    whole, parts = (load_model(tmp_path / name / "model.safetensors")[0].state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    first, second = (read_config(tmp_path / name / "config.json") for name in ("whole", "parts"))
    assert first == second


def fake_speed(images_per_s):
    from resnetlab.training.execution.execution import Execution

    def select(config, *_args, **_kwargs):
        name = Execution(threads=config.threads or 0).name
        return Execution(threads=config.threads or 0, images_per_s={name: images_per_s}), None

    return select


def test_a_run_of_days_is_refused_before_it_starts(run, tmp_path, monkeypatch):
    monkeypatch.setattr(plan_run, "select_execution", fake_speed(1e-4))
    monkeypatch.setattr(plan_run, "LONG_RUN_S", 0)
    status, _, err = run("--from", "none")
    assert status == 2
    (line,) = err.splitlines()
    assert "would take about" in line
    assert "days" in line
    assert "--minutes" in line
    assert "--yes" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        ((), 86_400.0),
        (("--yes",), None),
        (("--epochs", "3"), None),
        (("--minutes", "3000"), None),
        (("--set", "steps=3"), None),
        (("--recipe", "cifar-paper"), None),
    ],
)
def test_a_length_by_hand_or_yes_allows_any_time(words, limit):
    options = parse(train.Options, "train", ("--data", "digits", *words))
    assert train_config.runtime_options(options).max_expected_s == limit


def test_a_named_data_set_is_refused_as_well(tmp_path, monkeypatch, capsys):
    """Its speed is measured when the images are open; no folder is left."""
    monkeypatch.setattr(select_execution, "LONG_RUN_S", 0)
    monkeypatch.setattr(select_execution, "_compare_eager", lambda _c, timer, *_, **__: slow(timer))
    status = main(["train", "--data", "digits", "--model", "resnet8", "--out", str(tmp_path / "r")])
    assert (status, "--yes" in capsys.readouterr().err) == (2, True)
    assert not (tmp_path / "r").exists()


def slow(timer):
    from resnetlab.training.execution.execution import Execution

    return Execution(), {"fp32": 1e-3}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("answer", "yes", "is_terminal", "agreed"),
    [
        ("\n", False, True, True),
        ("n\n", False, True, False),
        ("", False, True, False),
        (None, False, False, False),
        (None, True, False, True),
    ],
)
def test_weights_are_downloaded_with_consent_alone(monkeypatch, tmp_path, answer, yes, is_terminal, agreed):
    monkeypatch.setenv("RESNETLAB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    fetched, output = [], Terminal()
    monkeypatch.setattr("resnetlab.models.pretrained.fetch.model_file", lambda entry: fetched.append(entry.name))
    monkeypatch.setattr(sys, "stdin", Terminal(answer) if is_terminal else io.StringIO())
    console = Console(file=output, force_terminal=is_terminal, width=200, color_system=None)
    assert train_plan.consent(WEIGHTS, console, yes=yes) == agreed
    assert fetched == ([WEIGHTS] if agreed else [])
    printed = output.getvalue()
    if answer is not None:
        assert "download resnet18.tv_in1k, 44.7 MiB from download.pytorch.org? [Y/n]" in printed
    elif not yes:
        assert (
            "from random weights: resnet18.tv_in1k is not on this machine; --from resnet18.tv_in1k or --yes" in printed
        )
        assert len(printed.splitlines()) == 1


def test_a_recipe_that_needs_weights_is_refused_without_them(monkeypatch, tmp_path):
    monkeypatch.setenv("RESNETLAB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(ConfigError, match=f"recipe finetune needs trained weights, and {WEIGHTS} is not on this machi"):
        train_plan.consent(WEIGHTS, console, yes=False, recipe="finetune")


def test_a_download_that_fails_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("RESNETLAB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(_entry):
        raise DownloadError("no route")

    monkeypatch.setattr("resnetlab.models.pretrained.fetch.model_file", refuse)
    with pytest.raises(DownloadError, match="no route; --from none trains from random weights"):
        train_plan.consent(WEIGHTS, Console(file=io.StringIO()), yes=True)
    with pytest.raises(DownloadError, match="no route; --from FILE takes other weights"):  # random ones do not
        train_plan.consent(WEIGHTS, Console(file=io.StringIO()), yes=True, recipe="finetune")


def test_weights_that_are_here_are_used_without_a_question(monkeypatch):
    monkeypatch.setattr("resnetlab.models.pretrained.fetch.is_cached", lambda entry: entry is CATALOGUE[WEIGHTS])
    output = io.StringIO()
    assert train_plan.consent(WEIGHTS, Console(file=output), yes=False)
    assert output.getvalue() == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--minutes", "0"), "minutes must be above 0"),
        (("--minutes", "5", "--epochs", "3"), "--minutes and --epochs both set the length"),
        (("--minutes", "5", "--steps", "3"), "--minutes and --steps both set the length"),
        (("--minutes", "5", "--set", "epochs=3"), "--minutes and --set epochs both set the length"),
        (("--minutes", "5", "--set", "lr=0.1", "steps=3"), "--minutes and --set steps both set the length"),
        (("--threads", "0"), "threads must be at least 1"),
        (("--recipe", "finetune", "--from", "none"), "recipe finetune needs trained weights"),
    ],
)
def test_wrong_options_are_one_line(run, words, message):
    status, _, err = run(*words)
    assert (status, message in err, len(err.splitlines())) == (2, True, 1)


def summary(expected_s, minutes=None, steps_per_epoch=20):
    config = RunConfig(model_config("resnet18"), recipe=recipe("finetune", epochs=5), weights=WEIGHTS, minutes=minutes)
    dataset = SimpleNamespace(name="a\x1b[31mb", train=range(320), classes=range(10))
    data = SimpleNamespace(
        dataset=dataset,
        device=SimpleNamespace(type="cpu"),
        preprocessing=SimpleNamespace(size_text="224"),
        num_epochs=5,
        steps_per_epoch=steps_per_epoch,
    )
    trainer: Any = SimpleNamespace(
        config=config,
        data=data,
        execution=Execution("bf16", images_per_s={"bf16": 16.0}),
        state=SimpleNamespace(step=0),
        total_steps=100,
        options=SimpleNamespace(expected_s=expected_s),
    )
    output = io.StringIO()
    console = Console(file=output, width=80, color_system=None)
    RunSummary(console, is_planned=True, now=lambda: 1.7e9).on_start(trainer)
    return output.getvalue()


def test_less_than_an_epoch_is_a_warning():
    """16 images/s are one step a second, so an epoch takes 133 s more than the minute: 140 s with the margin."""
    text = " ".join(summary(60.0, minutes=1, steps_per_epoch=233).split())
    expected = "1 min are enough for 100 of the 233 steps of an epoch; one epoch would need --minutes 4"
    assert text.endswith(f"warning: {expected}")
    assert "warning" not in summary(60.0, minutes=1, steps_per_epoch=100)


def test_three_lines_and_a_warning_above_an_hour():
    short = summary(250.0).splitlines()
    assert len(short) == 3
    assert short[0] == "train    resnet18.tv_in1k on a\\u001b[31mb: 320 images, 10 classes"
    assert "recipe finetune, 224 pixels, 5 epochs, batches of 16, bf16" in short[1]
    assert re.fullmatch(r"time     about 4 min 10 s, until \d\d:\d\d( on \w+)?", short[2])
    assert "warning: more than an hour; --minutes 30" in summary(4000.0)
    assert "warning" not in summary(7200.0, minutes=120.0)
    assert "time     about 12 days" in summary(12 * 86_400.0)
