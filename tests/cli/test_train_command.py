"""`resnetlab train` as a person meets it: a run, killed, stopped, continued, refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from resnetlab.cli import train
from resnetlab.models.model_file import load_model
from resnetlab.training.record import read_record

from conftest import resnetlab

SMALL = ("--data", "digits", "--model", "resnet8", "--batch-size", "100", "--steps", "24")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    done = resnetlab("train", *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_run_directory_has_a_name_of_its_own(trained):
    folder, done = trained
    out = folder / "runs" / "digits-resnet8-seed0"
    assert "model file: runs/digits-resnet8-seed0/model.safetensors" in done.stdout
    result = read_record(out / "record.jsonl")[-1]
    assert result["kind"] == "result"
    fields = {"train_error_pct", "val_error_pct", "test_error_pct", "time_s", "images_per_s"}
    assert all(isinstance(result[field], float) for field in fields)
    _, card = load_model(out / "model.safetensors")
    assert card.error["test_error_pct"] == result["test_error_pct"]
    assert card.classes == tuple("0123456789")


def test_what_is_printed_fits_80_columns_and_says_what_matters(trained):
    _, done = trained
    assert done.stderr == ""
    for words in ("resnet8", "digits", "24 steps of 100 images", "lr 0.01", "computed fp32", "images/s", "test error"):
        assert words in done.stdout
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


def test_the_same_command_makes_nothing_twice(trained):
    folder, _ = trained
    out = folder / "runs" / "digits-resnet8-seed0"
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if not path.name.startswith(".")}
    done = resnetlab("train", *SMALL, "--json", cwd=folder)
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert result["test_error_pct"] == read_record(out / "record.jsonl")[-1]["test_error_pct"]
    assert result["out"] == "runs/digits-resnet8-seed0"
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir() if not path.name.startswith(".")}


def test_another_configuration_is_refused(trained):
    folder, _ = trained
    done = resnetlab("train", *SMALL, "--lr", "0.1", cwd=folder)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "holds a run made otherwise (recipe.lr: 0.01 -> 0.1)" in line
    assert "--allow-config-change" in line
    resumed = resnetlab("train", "--out", "runs/digits-resnet8-seed0", "--resume", "--lr", "0.1", cwd=folder)
    assert (resumed.returncode, "recipe.lr: 0.01 -> 0.1" in resumed.stderr) == (2, True)


@pytest.mark.slow
def test_a_model_file_is_a_start(trained, tmp_path):
    folder, _ = trained
    start = folder / "runs" / "digits-resnet8-seed0" / "model.safetensors"
    tuned = resnetlab("train", *SMALL, "--from", start, "--lr", "0.001", "--out", tmp_path / "t", "--json")
    assert tuned.returncode == 0, tuned.stderr
    records = (folder / "runs" / "digits-resnet8-seed0" / "record.jsonl", tmp_path / "t" / "record.jsonl")
    first, second = (next(line for line in read_record(path) if line["kind"] == "epoch") for path in records)
    assert second["train_loss"] < 0.9 * first["train_loss"]
    deeper = resnetlab("train", *SMALL, "--model", "resnet14", "--from", start, "--out", tmp_path / "d", "--json")
    assert deeper.returncode == 0, deeper.stderr
    told = " ".join(deeper.stderr.split())
    assert "its 8 layers, and identity blocks; logits differ by 0 at most, training error" in told
    other = resnetlab("train", *SMALL[:2], "--model", "plain8", "--from", start, "--out", tmp_path / "o")
    assert other.returncode == 2
    assert "holds resnet8, which is not the network plain8 of this run (shortcut: pad -> none)" in other.stderr


def test_time_that_was_waited_away_is_told_in_a_line(capsys):
    result = {
        "train_error_pct": 99.99,
        "val_error_pct": 99.99,
        "test_error_pct": None,
        "time_s": 1.0,
        "images_per_s": 12_345.0,
    }
    for waited, told in ((100.0, True), (9.9, False)):
        train.print_result(result | {"data_wait_pct": waited}, Path("run"), Console(width=80))
        lines = capsys.readouterr().out.splitlines()
        assert any("100 % of the time was spent waiting for images" in line for line in lines) == told
        assert max(map(len, lines)) <= 80


@pytest.mark.slow
def test_without_a_model_a_file_is_fine_tuned(trained, tmp_path):
    folder, _ = trained
    start = folder / "runs" / "digits-resnet8-seed0"  # its run directory: the model file is inside
    words = ("--data", "digits", "--from", start, "--train-images", "100", "--epochs", "2", "--layer-decay", "0.5")
    done = resnetlab("train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    for said in (
        "network resnet8",
        "recipe finetune",
        "100 train",
        "head kept: the same classes",
        "the head alone for 1 epoch, lr x 0.5 each stage back",
        "mean per channel, as the file",
    ):
        assert said in told
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    out = tmp_path / "runs" / "digits-resnet8-finetuned-seed0"
    recipe = read_record(out / "record.jsonl")[0]["config"]["recipe"]
    assert (recipe["name"], recipe["frozen_epochs"], recipe["layer_decay"]) == ("finetune", 1, 0.5)
    longer = ("--resume", "--epochs", "3", "--frozen-epochs", "2", "--freeze-bn", "on", "--allow-config-change")
    again = resnetlab("train", "--out", out, *longer)
    assert again.returncode == 0, again.stderr
    assert "the head alone for 2 epochs, lr x 0.5 each stage back, BN as it was" in " ".join(again.stdout.split())


def test_a_run_does_not_overwrite_what_it_starts_from(trained):
    folder, _ = trained
    out = folder / "runs" / "digits-resnet8-seed0"
    for start in (out, out / "model.safetensors"):
        done = resnetlab("train", "--data", "digits", "--from", start, "--out", out, "--fresh")
        assert done.returncode == 2
        assert "would overwrite" in done.stderr
        assert (out / "model.safetensors").exists()


def begin(out, *more):
    command = [
        sys.executable,
        "-m",
        "resnetlab",
        "train",
        "--data",
        "digits",
        "--model",
        "resnet20",
        "--steps",
        "400",
        "--out",
        str(out),
        "--checkpoint-steps",
        "1",
        *more,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(3000):
        if list((out / "checkpoint").glob("save-*")):
            break
        time.sleep(0.01)
    time.sleep(random.random() / 5)
    return process


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_so(tmp_path, signum, status):
    process = begin(tmp_path / "r")
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert f"stopped by {signum.name}; saved in " in out
    assert err == ""
    state = json.loads(next((tmp_path / "r" / "checkpoint").glob("save-*/state.json")).read_text())
    assert 0 < state["run"]["step"] < 400


@pytest.mark.slow  # test_resume.py has it within one process
def test_a_second_run_on_one_directory_is_refused(tmp_path):
    process = begin(tmp_path / "r")
    try:
        second = resnetlab("train", "--out", tmp_path / "r", "--resume")
        assert (second.returncode, second.stderr.count("\n")) == (2, 1)
        assert "is in use by another run" in second.stderr
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    done = resnetlab("train", "--out", tmp_path / "r", "--resume", "--steps", "60", "--allow-config-change")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name the images: --data cifar10, or the path"),
        (("--data", "nothere"), "data 'nothere' is neither a known data set"),
        (("--data", "digits", "--model", "resnet57"), "the nearest are 56 and 62"),
        (("--data", "digits", "--recipe", "cifar"), "recipe 'cifar' is unknown; known: digits, cifar-paper"),
        (("--data", "digits", "--batch-size", "1"), "batch_size must be at least 2"),
        (("--data", "digits", "--lr", "-1"), "lr must be above 0"),
        (("--data", "digits", "--workers", "-1"), "workers must be at least 0"),
        (("--data", "digits", "--checkpoint-steps", "0"), "checkpoint-steps must be at least 1"),
        (("--data", "digits", "--track", "wandb"), "track 'wandb' is unknown; known: tensorboard"),
        (("--data", "digits", "--precision", "fp8"), "--precision"),
        (("--data", "digits", "--resume"), "no run there to resume"),
        (("--data", "digits", "--from", "nowhere"), "nowhere: no such model file"),
        (
            ("--data", "digits", "--recipe", "finetune"),
            "needs a trained network to start from; name its file with --from",
        ),
        (("--data", "digits", "--frozen-epochs", "1"), "frozen_epochs keeps what was learnt before"),
        (("--data", "digits", "--freeze-bn", "on"), "freeze_bn keeps what was learnt before"),
        (("--data", "digits", "--layer-decay", "2"), "layer_decay must be above 0 and at most 1, not 2.0"),
        (("--data", "digits", "--epoch", "2"), "train has no option '--epoch'; did you mean --epochs?"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(words, message, tmp_path, monkeypatch, capsys):
    from resnetlab.cli.main import main

    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_that_only_the_data_show_is_one_line_too(tmp_path):
    done = resnetlab("train", "--data", "digits", "--batch-size", "5000", "--out", tmp_path / "r")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("resnetlab: batch size 5000 is larger than the training set of 1257")


@pytest.mark.slow  # the README's test runs it as well
def test_verify_resume_proves_it():
    done = resnetlab("verify-resume", "--steps", "20", "--kills", "2", "--json")
    assert done.returncode == 0, done.stderr
    proof = json.loads(done.stdout)
    assert (proof["equal"], proof["differences"], len(proof["killed_at"])) == (True, [], 2)
    assert resnetlab("verify-resume", "--steps", "5").returncode == 2


def test_a_recipe_given_on_resume_has_the_rate_of_the_batch():
    config = train.new_config(train.Options(data="digits", model="resnet8"))
    options = train.Options(recipe="imagenet-90", batch_size=16, resume=True)
    assert train.override_config(config, options).recipe.lr == pytest.approx(0.256 / 16)


def test_another_batch_on_resume_has_its_rate():
    """Where the recipe's rate goes with the batch; one that is given, or the run's own of another recipe, stays."""
    config = train.new_config(train.Options(data="digits", model="resnet8", recipe="imagenet-90", lr=0.3))
    options = train.Options(batch_size=2048, resume=True)
    assert train.override_config(config, options).recipe.lr == pytest.approx(0.3 * 2048 / 256)
    assert train.override_config(config, replace(options, lr=1.0)).recipe.lr == 1.0
    assert train.override_config(config, train.Options(epochs=3, resume=True)).recipe.lr == 0.3
    own = train.new_config(train.Options(data="digits", model="resnet8"))
    assert train.override_config(own, options).recipe.lr == own.recipe.lr


def test_what_torchrun_starts_again_is_not_fresh(monkeypatch):
    options = train.Options(fresh=True)
    assert train.runtime_options(options).fresh
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert train.runtime_options(options).fresh
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not train.runtime_options(options).fresh


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e20", "0", "-1"])
def test_patience_is_a_time(seconds, capsys):
    from resnetlab.cli.main import main

    assert main(["train", "--data", "digits", "--timeout", seconds]) == 2
    said = capsys.readouterr().err
    assert f"timeout must be from 1 to 1,000,000, not {float(seconds):g}" in said
    assert said.count("\n") == 1


def test_a_rank_without_others_speaks(tmp_path):
    done = resnetlab("train", *SMALL, "--out", tmp_path / "run", RANK="1")
    assert done.returncode == 0, done.stderr
    assert "model file: " in done.stdout
    done = resnetlab("train", *SMALL, "--out", tmp_path / "other", WORLD_SIZE="abc")
    assert done.returncode == 2
    assert done.stderr.startswith("resnetlab: WORLD_SIZE must be a whole number")


MISTAKEN = """
import sys, time
from resnetlab.cli.main import main
cli.HEARD_S = float(sys.argv[1])
sys.exit(main(["train", "--epoch", "2"]))
"""


@pytest.mark.parametrize(("wait_s", "told"), [("0.01", 1), ("60", 0)])
def test_of_several_processes_another_tells_only_what_the_first_does_not(wait_s, told):
    """It waits to be ended by torchrun, as it is where the first one has told the same and left."""
    process = subprocess.Popen(
        [sys.executable, "-c", MISTAKEN, wait_s],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "1", "RANK": "1"},
    )
    if not told:
        time.sleep(1)
        process.terminate()
    _, said = process.communicate(timeout=60)
    assert said.count("did you mean --epochs") == told
    assert process.returncode == (2 if told else -signal.SIGTERM)
