"""Killed anywhere and continued, a run ends as the unbroken one: weights, momentum, record, to the last bit."""

import dataclasses
import json
import os
import random
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.killed_runs import in_a_child, killed_at_step
from resnetlab.config import ConfigError, DataConfig, Recipe, RunConfig
from resnetlab.data.images.decode import BadImageError
from resnetlab.models.zoo import model_config
from resnetlab.training.callbacks import Callback
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files import checkpoint_manager
from resnetlab.training.run_files.checkpoint import load_checkpoint
from resnetlab.training.run_files.checkpoint_manager import UnsavedError
from resnetlab.training.run_files.compare_runs import run_differences
from resnetlab.training.run_files.record import read_record
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError, StopSignal

DIGITS = RunConfig(
    model_config("resnet8"),
    recipe=recipe("digits", steps=25, batch_size=100, keep="best", crop_padding=1, flip=True),
    seed=3,
)
EVERY_STEP = RuntimeOptions(resume=True, checkpoint_steps=1)
CALLS = ("mkdir", "open", "write", "fsync", "close", "rename", "unlink", "rmdir")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    fit(DIGITS, out)
    return out


@pytest.mark.slow
def test_a_kill_at_random_steps(unbroken, tmp_path):
    rng = random.Random(0)
    for _ in range(4):
        options = dataclasses.replace(EVERY_STEP, checkpoint_steps=rng.randint(1, 4))
        assert killed_at_step(DIGITS, tmp_path / "r", rng.randint(1, 8), options) == signal.SIGKILL
    fit(DIGITS, tmp_path / "r", options=RuntimeOptions(resume=True))
    assert run_differences(unbroken, tmp_path / "r") == []


@pytest.mark.slow
def test_a_kill_at_every_system_call_of_the_writer(unbroken, tmp_path):
    """Killed at the first call of a save, continued, killed at the second call of the next one, and so on."""

    def dies_at(die_at):
        def work():
            save = checkpoint_manager.save_checkpoint

            def dying(folder, checkpoint):
                count = 0
                real = {name: getattr(os, name) for name in CALLS}

                def watched(name):
                    def call(*arguments, **options):
                        nonlocal count
                        count += 1
                        if count == die_at:
                            os.kill(os.getpid(), signal.SIGKILL)
                        return real[name](*arguments, **options)

                    return call

                for name in CALLS:
                    setattr(os, name, watched(name))
                try:
                    save(folder, checkpoint)
                finally:
                    for name in CALLS:
                        setattr(os, name, real[name])

            checkpoint_manager.save_checkpoint = dying
            fit(DIGITS, tmp_path / "r", options=EVERY_STEP)

        return work

    die_at = 1
    while in_a_child(dies_at(die_at)) == signal.SIGKILL:
        die_at += 1
    assert die_at > 20
    assert run_differences(unbroken, tmp_path / "r") == []


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three classes of 40 images of several sizes, which stay encoded."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog", "eel")):
        (root / name).mkdir()
        for index in range(40):
            pixels = rng.integers(0, 90, (20 + index % 3, 24, 3), dtype=np.uint8) + np.uint8(60 * label)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_any_number_of_workers_gives_the_same_run(photographs, tmp_path, workers, tmp_path_factory):
    config = RunConfig(
        model_config("resnet8"),
        DataConfig(str(photographs), image_size=16, resident_mib=0),
        Recipe(steps=10, batch_size=24, lr=0.05, crop="resized", flip=True, jitter=0.3, lighting=0.1),
    )
    reference = tmp_path_factory.getbasetemp() / "reference"
    if not reference.exists():
        fit(config, reference)
    options = RuntimeOptions(resume=True, workers=workers, checkpoint_steps=2)
    assert killed_at_step(config, tmp_path / "r", 3 + workers, options) == signal.SIGKILL
    fit(config, tmp_path / "r", options=options)
    assert run_differences(reference, tmp_path / "r") == []


def test_a_bad_image_is_left_out_and_told_once_in_all_sessions(photographs, tmp_path):
    """Its header is whole, so only the batch that needs it finds out; then the record has it, once."""
    pets = shutil.copytree(photographs, tmp_path / "pets")
    bad = pets / "cat" / "7.png"
    bad.write_bytes(bad.read_bytes()[:600])
    config = RunConfig(
        model_config("resnet8"),
        DataConfig(str(pets), image_size=16, resident_mib=0, on_bad_image="skip"),
        Recipe(epochs=3, batch_size=32, lr=0.05, crop="resized"),
    )
    fit(config, tmp_path / "unbroken")
    messages = [
        line["message"] for line in read_record(tmp_path / "unbroken" / "record.jsonl") if "left out" in str(line)
    ]
    assert [message.split(":")[:2] for message in messages] == [["left out", " cat/7.png"]]
    assert killed_at_step(config, tmp_path / "r", 7, RuntimeOptions(resume=True, checkpoint_steps=2)) == signal.SIGKILL
    fit(config, tmp_path / "r", options=RuntimeOptions(resume=True))
    assert run_differences(tmp_path / "unbroken", tmp_path / "r") == []
    strict = dataclasses.replace(config, data=dataclasses.replace(config.data, on_bad_image="fail"))
    with pytest.raises((BadImageError, ConfigError), match=r"cat/7\.png: cannot be decoded .*--on-bad-image skip"):
        fit(strict, tmp_path / "strict")


def test_other_images_cannot_continue_a_run(photographs, tmp_path):
    pets = shutil.copytree(photographs, tmp_path / "pets")
    config = RunConfig(model_config("resnet8"), DataConfig(str(pets), image_size=16), Recipe(steps=9, batch_size=32))
    assert killed_at_step(config, tmp_path / "r", 5, EVERY_STEP) == signal.SIGKILL
    Image.new("RGB", (24, 20)).save(pets / "cat" / "7.png")
    with pytest.raises(ConfigError, match="the images of pets are not those that the run was started with"):
        fit(config, tmp_path / "r", options=RuntimeOptions(resume=True))


class StopAt(Callback):
    """Sends this process a signal at a step."""

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer, metrics):
        if metrics.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_finishes_the_step_and_saves(unbroken, tmp_path):
    """At step 12 an epoch ends: what is left is its validation, which the next session makes up for."""
    for step in (5, 12):
        with pytest.raises(InterruptedRunError), StopSignal() as stop_signal:
            fit(
                DIGITS,
                tmp_path / "r",
                options=RuntimeOptions(resume=True),
                callbacks=[StopAt(step)],
                stop_signal=stop_signal,
            )
        assert len(list((tmp_path / "r" / "checkpoint").glob("save-*"))) == 1
    fit(DIGITS, tmp_path / "r", options=RuntimeOptions(resume=True))
    assert run_differences(unbroken, tmp_path / "r") == []


class StopAtStart(Callback):
    """Sends a signal between the first line of the record and the first step."""

    def on_start(self, trainer):
        os.kill(os.getpid(), signal.SIGHUP)


def test_a_signal_before_the_first_step_saves_after_it(unbroken, tmp_path):
    out = tmp_path / "r"
    with pytest.raises(InterruptedRunError), StopSignal() as stop_signal:
        fit(DIGITS, out, callbacks=[StopAtStart()], stop_signal=stop_signal)
    (saved,) = (out / "checkpoint").glob("save-*")
    assert json.loads((saved / "state.json").read_text())["run"]["step"] == 1
    fit(DIGITS, out, options=RuntimeOptions(resume=True))
    assert run_differences(unbroken, out) == []


def test_a_signal_while_the_best_weights_are_measured_keeps_the_last_ones(tmp_path):
    class Last(Callback):
        """Makes the first epoch the best one, stores the last weights, and stops the run at its last evaluation."""

        def on_epoch(self, trainer, line):
            if line["epoch"] == 1:
                trainer.best.error_pct = -1.0
            self.weights = {key: value.clone() for key, value in trainer.model.state_dict().items()}

        def on_last_evaluation(self, trainer, epoch, expected_s):
            assert epoch == 1
            raise InterruptedRunError(signal.SIGINT)

    last = Last()
    with pytest.raises(InterruptedRunError):
        fit(DIGITS, tmp_path, callbacks=[last])
    saved = load_checkpoint(tmp_path / "checkpoint")
    assert saved is not None
    assert all(torch.equal(value, saved.tensors[f"model.{key}"]) for key, value in last.weights.items())
    assert not torch.equal(saved.tensors["model.fc.weight"], saved.tensors["best.fc.weight"])


def test_a_finished_run_is_not_made_again(unbroken):
    before = (unbroken / "record.jsonl").read_bytes()
    again = fit(DIGITS, unbroken, options=RuntimeOptions(resume=True))
    assert again.result["test_error_pct"] == read_record(unbroken / "record.jsonl")[-1]["test_error_pct"]
    assert (unbroken / "record.jsonl").read_bytes() == before


def test_another_configuration_is_refused_unless_allowed(tmp_path):
    killed_at_step(DIGITS, tmp_path, 6, EVERY_STEP)
    other = dataclasses.replace(DIGITS, recipe=dataclasses.replace(DIGITS.recipe, lr=0.005))
    record = (tmp_path / "record.jsonl").read_bytes()
    message = r"another configuration \(recipe\.lr: 0\.01 -> 0\.005\); add --allow-config-change"
    with pytest.raises(ConfigError, match=message):
        fit(other, tmp_path, options=RuntimeOptions(resume=True))
    assert (tmp_path / "record.jsonl").read_bytes() == record
    fit(other, tmp_path, options=RuntimeOptions(resume=True, allow_config_change=True))
    warnings = [line["message"] for line in read_record(tmp_path / "record.jsonl") if line["kind"] == "warning"]
    assert warnings == [
        "continued with another configuration: recipe.lr: 0.01 -> 0.005",
        "the learning rate of the next step is 0.005 instead of 0.01",
    ]
    wider = dataclasses.replace(other, model=model_config("resnet14"))
    for allowed in (False, True):  # the first word on it names no way that is none
        with pytest.raises(
            ConfigError, match=r"another network or other data .* add --fresh to start over, or"
        ) as caught:
            fit(wider, tmp_path, options=RuntimeOptions(resume=True, allow_config_change=allowed))
        assert "--allow-config-change" not in str(caught.value)


def test_another_batch_size_starts_the_epoch_again(tmp_path):
    killed_at_step(DIGITS, tmp_path, 15, EVERY_STEP)
    other = dataclasses.replace(DIGITS, recipe=dataclasses.replace(DIGITS.recipe, batch_size=50, steps=50))
    fitted = fit(other, tmp_path, options=RuntimeOptions(resume=True, allow_config_change=True))
    assert fitted.result["steps"] == 50
    epochs = [line["step"] for line in read_record(tmp_path / "record.jsonl") if line["kind"] == "epoch"]
    assert epochs == [12, 50]


def test_two_runs_on_one_directory(tmp_path):
    class Second(Callback):
        message = ""

        def on_step(self, trainer, metrics):
            try:
                fit(DIGITS, tmp_path, options=RuntimeOptions(resume=True))
            except ConfigError as error:
                self.message = str(error)

    second = Second()
    fit(DIGITS, tmp_path, callbacks=[second])
    assert "is in use by another run" in second.message


class InTheWay(Callback):
    """Puts a file where the checkpoints belong, and takes it away at a step."""

    def __init__(self, out, until):
        self.out, self.until, self.messages = out, until, []

    def on_start(self, trainer):
        (self.out / "checkpoint").write_text("in the way")

    def on_warning(self, trainer, message):
        self.messages.append(message)

    def on_step(self, trainer, metrics):
        if metrics.step == self.until:
            (self.out / "checkpoint").unlink()


def test_a_disk_that_cannot_be_written_for_a_while_is_survived(tmp_path):
    callback = InTheWay(tmp_path / "r", until=8)
    fit(DIGITS, tmp_path / "r", options=RuntimeOptions(checkpoint_steps=4), callbacks=[callback])
    assert len(callback.messages) == 1  # the save of step 4; that of step 8 came after
    assert "the checkpoint cannot be saved (File exists); training goes on" in callback.messages[0]
    kinds = [line["kind"] for line in read_record(tmp_path / "r" / "record.jsonl") if line["kind"] != "signal"]
    assert kinds == ["run", "warning", "epoch", "epoch", "epoch", "result"]


def test_a_last_save_that_fails_is_an_error(tmp_path):
    with pytest.raises(UnsavedError, match=r"cannot be saved .* the model file and the record are whole"):
        fit(DIGITS, tmp_path / "r", options=RuntimeOptions(), callbacks=[InTheWay(tmp_path / "r", until=-1)])
    assert read_record(tmp_path / "r" / "record.jsonl")[-1]["status"] == "done"
    assert (tmp_path / "r" / "model.safetensors").exists()


def test_a_signal_while_nothing_can_be_saved_says_so(tmp_path):
    class Both(InTheWay):
        def on_step(self, trainer, metrics):
            if metrics.step == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(UnsavedError, match="stopped, the last good one stays"), StopSignal() as stop_signal:
        fit(DIGITS, tmp_path / "r", callbacks=[Both(tmp_path / "r", -1)], stop_signal=stop_signal)
