"""`resnetlab train`: runs that finish, stop, resume, and are refused."""

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

from resnetlab.cli.train_config import new_config, override_config, runtime_options
from resnetlab.cli.train_options import Options, RecipeOptions, RunDirectoryOptions
from resnetlab.cli.train_output import print_result
from resnetlab.config import ConfigError
from resnetlab.models.model_file import load_model
from resnetlab.training.run_files.record import read_record

from conftest import resnetlab

SMALL = ("--data", "digits", "--model", "resnet8", "--batch-size", "100", "--steps", "24")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    done = resnetlab("train", *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_run_directory_is_named_after_data_model_and_seed(trained):
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


def test_the_output_fits_80_columns_and_describes_the_run(trained):
    _, done = trained
    assert done.stderr == ""
    for words in (
        "resnet8",
        "digits",
        "24 steps of 100 images",
        "lr 0.01",
        "computed fp32",
        "images/s",
        "errors: train",
    ):
        assert words in done.stdout
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


def test_the_same_command_does_not_repeat_a_finished_run(trained):
    folder, _ = trained
    out = folder / "runs" / "digits-resnet8-seed0"
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if not path.name.startswith(".")}
    done = resnetlab("train", *SMALL, "--json", cwd=folder)
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert result["test_error_pct"] == read_record(out / "record.jsonl")[-1]["test_error_pct"]
    assert result["out"] == "runs/digits-resnet8-seed0"
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir() if not path.name.startswith(".")}


def test_a_changed_configuration_is_refused(trained):
    folder, _ = trained
    done = resnetlab("train", *SMALL, "--lr", "0.1", cwd=folder)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "recipe.lr: 0.01 -> 0.1" in line
    assert "--allow-config-change" in line
    resumed = resnetlab("train", "--out", "runs/digits-resnet8-seed0", "--resume", "--lr", "0.1", cwd=folder)
    assert (resumed.returncode, "recipe.lr: 0.01 -> 0.1" in resumed.stderr) == (2, True)


@pytest.mark.slow
def test_a_model_file_provides_the_initial_weights(trained, tmp_path):
    folder, _ = trained
    start = folder / "runs" / "digits-resnet8-seed0" / "model.safetensors"
    tuned = resnetlab("train", *SMALL, "--from", start, "--lr", "0.001", "--out", tmp_path / "t", "--json")
    assert tuned.returncode == 0, tuned.stderr
    records = (folder / "runs" / "digits-resnet8-seed0" / "record.jsonl", tmp_path / "t" / "record.jsonl")
    first, second = (next(line for line in read_record(path) if line["kind"] == "epoch") for path in records)
    assert second["train_loss"] < 0.9 * first["train_loss"]
    deeper = resnetlab("train", *SMALL, "--model", "resnet14", "--from", start, "--out", tmp_path / "d", "--json")
    assert deeper.returncode == 0, deeper.stderr
    output = " ".join(deeper.stderr.split())
    assert "logits differ by 0 at most, training error" in output
    other = resnetlab("train", *SMALL[:2], "--model", "plain8", "--from", start, "--out", tmp_path / "o")
    assert other.returncode == 2
    assert "holds resnet8, which is not the network plain8 of this run (shortcut: pad -> none)" in other.stderr


def test_the_result_mentions_a_long_wait_for_images_in_a_run_of_a_minute(capsys):
    result = {
        "train_error_pct": 99.99,
        "val_error_pct": 99.99,
        "test_error_pct": None,
        "time_s": 100.0,
        "images_per_s": 500.0,
    }
    for wait_pct, steps, is_mentioned in ((100.0, 300, True), (9.9, 300, False), (100.0, 299, False)):
        waited = result | {"data_wait_pct": wait_pct, "steps": steps}
        print_result(waited, Path("run"), Console(width=80), batch_size=100)
        lines = capsys.readouterr().out.splitlines()
        assert any("100 % of the time was spent waiting for images" in line for line in lines) == is_mentioned
        assert max(map(len, lines)) <= 80


@pytest.mark.slow
def test_a_file_without_a_model_is_fine_tuned(trained, tmp_path):
    folder, _ = trained
    start = folder / "runs" / "digits-resnet8-seed0"  # the run directory, which contains the model file
    words = ("--data", "digits", "--from", start, "--train-images", "100", "--epochs", "2", "--layer-decay", "0.5")
    done = resnetlab("train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    output = " ".join(done.stdout.split())
    for text in (
        "network resnet8",
        "recipe finetune",
        "100 train",
        "head kept: the same classes",
        "only the head for 1 epoch, lr x 0.5 for each stage",
        "mean and deviation per channel, as in the file",
    ):
        assert text in output
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    out = tmp_path / "runs" / "digits-resnet8-finetuned-seed0"
    recipe = read_record(out / "record.jsonl")[0]["config"]["recipe"]
    assert (recipe["name"], recipe["frozen_epochs"], recipe["layer_decay"]) == ("finetune", 1, 0.5)
    longer = ("--resume", "--epochs", "3", "--frozen-epochs", "2", "--freeze-bn", "on", "--allow-config-change")
    again = resnetlab("train", "--out", out, *longer)
    assert again.returncode == 0, again.stderr
    output = " ".join(again.stdout.split())
    assert "only the head for 2 epochs, lr x 0.5 for each stage" in output
    assert "BN frozen" in output


def test_a_run_does_not_overwrite_its_initial_weights(trained):
    folder, _ = trained
    out = folder / "runs" / "digits-resnet8-seed0"
    for start in (out, out / "model.safetensors"):
        done = resnetlab("train", "--data", "digits", "--from", start, "--out", out, "--fresh")
        assert done.returncode == 2
        assert "would overwrite" in done.stderr
        assert (out / "model.safetensors").exists()


def start_run(out, *more):
    """Start a run in another process, and wait for its first checkpoint and a random time."""
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
    for _ in range(18_000):  # minutes: PyTorch loads slowly on a busy machine
        if process.poll() is not None or list((out / "checkpoint").glob("save-*")):
            break
        time.sleep(0.01)
    time.sleep(random.random() / 5)
    return process


@pytest.mark.slow  # test_resume.py tests this within one process
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_run(tmp_path, signum, status):
    process = start_run(tmp_path / "r")
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert f"stopped by {signum.name}; saved in " in out
    assert err == ""
    state = json.loads(next((tmp_path / "r" / "checkpoint").glob("save-*/state.json")).read_text())
    assert 0 < state["run"]["step"] < 400


@pytest.mark.slow  # test_resume.py tests this within one process
def test_a_second_run_on_one_directory_is_refused(tmp_path):
    process = start_run(tmp_path / "r")
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
        ((), "--data is missing; give cifar10, or the path"),
        (("--data", "nothere"), "data 'nothere' is neither a known data set"),
        (("--data", "digits", "--model", "resnet57"), "the nearest are 56 and 62"),
        (("--data", "digits", "--recipe", "cifar"), "recipe 'cifar' is unknown; known: digits, cifar-paper"),
        (("--data", "digits", "--batch-size", "1"), "batch_size must be at least 2"),
        (("--data", "digits", "--lr", "-1"), "lr must be above 0"),
        (("--data", "digits", "--initial-lr", "0"), "initial_lr must be above 0"),
        (("--data", "digits", "--workers", "-1"), "workers must be at least 0"),
        (("--data", "digits", "--checkpoint-steps", "0"), "checkpoint_steps must be at least 1"),
        (("--data", "digits", "--track", "wandb"), "track 'wandb' is unknown; known: tensorboard"),
        (("--data", "digits", "--precision", "fp8"), "--precision"),
        (("--data", "digits", "--resume"), "no run to resume"),
        (("--data", "digits", "--from", "nowhere"), "nowhere: no such model file"),
        (
            ("--data", "digits", "--recipe", "finetune"),
            "needs trained weights; name a model file with --from",
        ),
        (("--data", "digits", "--frozen-epochs", "1"), "frozen_epochs needs trained weights"),
        (("--data", "digits", "--freeze-bn", "on"), "freeze_bn needs trained weights"),
        (("--data", "digits", "--layer-decay", "2"), "layer_decay must be above 0 and at most 1, not 2.0"),
        (("--data", "digits", "--epoch", "2"), "train has no option '--epoch'; did you mean --epochs?"),
    ],
)
def test_an_invalid_call_prints_one_line_and_writes_nothing(words, message, tmp_path, monkeypatch, capsys):
    from resnetlab.cli.main import main

    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_error_found_in_the_data_prints_one_line(tmp_path, capsys):
    from resnetlab.cli.main import main

    assert main(["train", "--data", "digits", "--batch-size", "5000", "--out", str(tmp_path / "r")]) == 2
    stderr = capsys.readouterr().err
    assert stderr.splitlines()[-1].startswith("resnetlab: batch size 5000 is larger than the training set of 1257")


@pytest.mark.slow
def test_verify_resume_finds_equal_runs():
    done = resnetlab("verify-resume", "--steps", "20", "--kills", "2", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["equal"], result["differences"], len(result["killed_at"])) == (True, [], 2)
    assert resnetlab("verify-resume", "--steps", "5").returncode == 2


def test_initial_lr_overrides_the_recipe():
    deep = Options(data="cifar10", model="resnet110")
    assert new_config(deep).recipe.initial_lr == 0.01  # section 4.2
    assert new_config(replace(deep, recipe=RecipeOptions(initial_lr=0.02))).recipe.initial_lr == 0.02
    config = new_config(Options(data="digits", model="resnet8"))
    assert config.recipe.initial_lr is None
    assert override_config(config, Options(recipe=RecipeOptions(initial_lr=0.005))).recipe.initial_lr == 0.005


def test_a_recipe_given_on_resume_scales_lr_with_the_batch():
    config = new_config(Options(data="digits", model="resnet8"))
    options = Options(recipe=RecipeOptions("imagenet-90", batch_size=16))
    assert override_config(config, options).recipe.lr == pytest.approx(0.256 / 16)


def test_a_batch_size_given_on_resume_scales_lr():
    """Only in recipes whose lr is proportional to the batch size, and only if lr is not given."""
    config = new_config(Options(data="digits", model="resnet8", recipe=RecipeOptions("imagenet-90", lr=0.3)))
    options = Options(recipe=RecipeOptions(batch_size=2048))
    assert override_config(config, options).recipe.lr == pytest.approx(0.3 * 2048 / 256)
    assert override_config(config, replace(options, recipe=replace(options.recipe, lr=1.0))).recipe.lr == 1.0
    assert override_config(config, Options(recipe=RecipeOptions(epochs=3))).recipe.lr == 0.3
    own = new_config(Options(data="digits", model="resnet8"))
    assert override_config(own, options).recipe.lr == own.recipe.lr


def test_a_restart_by_torchrun_ignores_fresh(monkeypatch):
    options = Options(run=RunDirectoryOptions(fresh=True))
    assert runtime_options(options).fresh
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert runtime_options(options).fresh
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not runtime_options(options).fresh


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e20", "0", "-1"])
def test_an_invalid_timeout_is_refused(seconds, capsys):
    from resnetlab.cli.main import main

    assert main(["train", "--data", "digits", "--timeout", seconds]) == 2
    stderr = capsys.readouterr().err
    assert f"timeout must be from 1 to 1,000,000, not {float(seconds):g}" in stderr
    assert stderr.count("\n") == 1


def test_a_rank_without_a_world_size_prints(tmp_path):
    done = resnetlab("train", *SMALL[:-1], "2", "--out", tmp_path / "run", RANK="1")
    assert done.returncode == 0, done.stderr
    assert "model file: " in done.stdout
    done = resnetlab("train", *SMALL, "--out", tmp_path / "other", WORLD_SIZE="abc")
    assert done.returncode == 2
    assert done.stderr.startswith("resnetlab: WORLD_SIZE must be a whole number")


INVALID_CALL = """
import sys
from resnetlab.cli import main as cli
cli.ERROR_DELAY_S = float(sys.argv[1])
sys.exit(cli.main(["train", "--epoch", "2"]))
"""


@pytest.mark.parametrize(("wait_s", "num_reports"), [("0.01", 1), ("60", 0)])
def test_other_processes_delay_their_error(wait_s, num_reports):
    """If the first process reports the same error, torchrun ends the others during their delay."""
    process = subprocess.Popen(
        [sys.executable, "-c", INVALID_CALL, wait_s],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "1", "RANK": "1"},
    )
    if num_reports == 0:
        time.sleep(1)
        process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert stderr.count("did you mean --epochs") == num_reports
    assert process.returncode == (2 if num_reports else -signal.SIGTERM)


def test_fields_of_the_recipe_are_set_on_the_command_line(tmp_path):
    (tmp_path / "short.toml").write_text('base = "digits"\nepochs = 2\n')
    recipe = RecipeOptions(str(tmp_path / "short.toml"), lr=0.1, set=("nesterov=true", "steps=7"))
    options = Options(data="digits", model="resnet8", recipe=recipe)
    recipe = new_config(options).recipe
    assert (recipe.name, recipe.epochs, recipe.steps, recipe.lr) == ("short", 2, 7, 0.1)
    assert (recipe.nesterov, recipe.batch_size) == (True, 16)
    change = Options(recipe=RecipeOptions(set=("lr=0.2", "epochs=3")))
    resumed = override_config(new_config(options), change)
    assert (resumed.recipe.lr, resumed.recipe.epochs, resumed.recipe.steps) == (0.2, 3, None)


def test_a_field_is_not_set_twice():
    with pytest.raises(ConfigError, match="--batch-size and --set batch_size give the same field; use one of them"):
        new_config(Options(data="digits", recipe=RecipeOptions(batch_size=8, set=("batch_size=16",))))
