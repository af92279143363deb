"""A run that continues with another configuration says what that changes."""

import dataclasses
import shutil

import pytest

from resnetlab.architecture_config import ArchitectureConfig
from resnetlab.config import ConfigError, Recipe, RunConfig, read_config
from resnetlab.models.zoo import model_config
from resnetlab.study.results import read_run
from resnetlab.training.callbacks import Callback
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.checkpoint import Checkpoint
from resnetlab.training.run_files.record import read_record
from resnetlab.training.run_files.run_dir import open_run_dir, write_config
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError
from resnetlab.training.trainer import Trainer

CONFIG = RunConfig(model_config("resnet8"), recipe=recipe("digits", epochs=2, batch_size=400))
"""Three steps an epoch; the rate falls by 10 after 3 of 6 steps and again after 5."""
CHANGE = RuntimeOptions(resume=True, allow_config_change=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "finished"
    fit(CONFIG, out)
    return out


def continued(finished, tmp_path, callbacks=(), **changes) -> tuple[list[str], list[dict]]:
    """Continue a copy of the run; return its new warnings after the one that lists the differences, and its epochs."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    config = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, **changes))
    fit(config, out, options=CHANGE, callbacks=callbacks)
    lines = read_record(out / "record.jsonl")
    warnings = [line["message"] for line in lines if line["kind"] == "warning"]
    assert warnings[0].startswith("continued with another configuration: recipe.")
    assert all("\n" not in warning for warning in warnings)
    return warnings[1:], [line for line in lines if line["kind"] == "epoch"]


def test_more_epochs_stretch_the_schedule(finished, tmp_path):
    warnings, epochs = continued(finished, tmp_path, epochs=6)
    assert warnings[0] == (
        "the learning rate goes back up from 0.0001 to 0.01, since the schedule is stretched from 6 to 18 steps"
    )
    assert warnings[1].startswith("the test split had been measured already (")
    assert (read_run(finished).num_test_evaluations, read_run(tmp_path / "run").num_test_evaluations) == (1, 2)
    assert len(warnings) == 2
    (change,) = read_run(tmp_path / "run").changes
    assert change.startswith("continued with another configuration: recipe.epochs")
    assert read_run(finished).changes == ()
    assert [epoch["lr"] for epoch in epochs][1:3] == pytest.approx([0.0001, 0.01])


CUT = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, steps=5))
"""The second of its epochs ends after 2 of 3 steps."""


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "cut"
    fit(CUT, out)
    return out


@pytest.mark.parametrize("steps", [7, 9])
def test_a_partial_epoch_counts_as_done_where_others_follow(cut, tmp_path, steps):
    class Batches(Callback):
        def __init__(self):
            self.positions = []

        def on_step(self, trainer, metrics):
            self.positions.append((metrics.epoch, metrics.step))

    seen = Batches()
    warnings, epochs = continued(cut, tmp_path, callbacks=[seen], steps=steps, milestones=(0.3, 0.5))
    assert warnings[0] == (
        "epoch 2 ended after 2 of its 3 steps and is done: after 5 steps the run continues at the start of epoch 3, "
        "which is counted as step 6"
    )
    assert [epoch["step"] for epoch in epochs] == [3, 5, steps]
    assert seen.positions == [(3, step) for step in range(7, steps + 1)]


def test_the_last_epoch_that_was_cut_is_not_filled_up(cut, tmp_path):
    warnings, epochs = continued(cut, tmp_path, steps=6)
    assert warnings[0] == (
        "nothing is left to train: 2 epochs are done, the last after 2 of its 3 steps, and the new length is 2; "
        "the network stays as it is"
    )
    assert len(epochs) == 2


def test_a_schedule_that_goes_on_is_not_mentioned(finished, tmp_path):
    warnings, _ = continued(finished, tmp_path, epochs=3, milestones=(0.3, 0.5))
    assert len(warnings) == 1
    assert warnings[0].startswith("the test split had been measured already")


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_the_rate_that_a_warm_up_in_epochs_gives_is_not_mentioned(tmp_path, schedule):
    changes = {"warmup_epochs": 1, "schedule": schedule}
    config = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, **changes))

    class Stop(Callback):
        def on_step(self, trainer, metrics):
            if metrics.step == 4:
                raise InterruptedRunError(2)

    with pytest.raises(InterruptedRunError):
        fit(config, tmp_path, callbacks=[Stop()])
    fit(dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, keep="best")), tmp_path, options=CHANGE)
    warnings = [line["message"] for line in read_record(tmp_path / "record.jsonl") if line["kind"] == "warning"]
    assert not any("learning rate goes" in warning or "learning rate of" in warning for warning in warnings), warnings


def test_fewer_epochs(finished, tmp_path):
    warnings, epochs = continued(finished, tmp_path, epochs=1)
    assert warnings[0] == (
        "nothing is left to train: 2 epochs are done, and the new length is 1; the network stays as it is"
    )
    assert len(epochs) == 2


def test_another_batch_size(finished, tmp_path):
    warnings, _ = continued(finished, tmp_path, epochs=3, batch_size=600, milestones=(0.3, 0.5))
    assert warnings[0] == (
        "an epoch has 2 steps instead of 3: after 6 steps the run continues at the start of epoch 3, which is counted "
        "as step 4"
    )


def test_another_rate(finished, tmp_path):
    warnings, _ = continued(finished, tmp_path, epochs=3, milestones=(0.3, 0.5), lr=0.005)
    assert warnings[0] == (
        "the learning rate of the next step is 5e-05 instead of 0.0001, "
        "since the schedule is stretched from 6 to 9 steps"
    )


def test_the_best_epoch_is_one_whose_weights_were_stored(finished, tmp_path):
    warnings, epochs = continued(finished, tmp_path, epochs=3, milestones=(0.3, 0.5), keep="best")
    assert warnings[0] == "keep best chooses from epoch 3 on: the weights of the epochs before were not stored"
    result = read_record(tmp_path / "run" / "record.jsonl")[-1]
    assert (result["kept"], result["best_epoch"]) == ("best", 3)
    assert result["best_val_error_pct"] == epochs[-1]["val_error_pct"]


def test_without_a_further_epoch_the_last_is_kept(finished, tmp_path):
    continued(finished, tmp_path, keep="best")
    result = read_record(tmp_path / "run" / "record.jsonl")[-1]
    assert (result["kept"], result["best_val_error_pct"]) == ("last", None)


def files_of(out):
    return {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": dataclasses.replace(CONFIG.recipe, batch_size=5000)},
        {"recipe": dataclasses.replace(CONFIG.recipe, lr=0.1), "device": "cuda"},
        {"recipe": dataclasses.replace(CONFIG.recipe, epochs=5), "precision": "tf32"},
    ],
)
def test_a_change_that_cannot_start_leaves_a_finished_run_as_it_was(finished, tmp_path, monkeypatch, changes):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = files_of(out)
    with pytest.raises(ConfigError):
        fit(dataclasses.replace(CONFIG, **changes), out, options=CHANGE)
    assert files_of(out) == before


@pytest.mark.parametrize("error", [InterruptedRunError(2), KeyboardInterrupt(), OSError("the disk is gone")])
def test_an_end_while_loading_leaves_a_finished_run_as_it_was(finished, tmp_path, monkeypatch, error):
    def open_run_data(*_):
        raise error

    monkeypatch.setattr("resnetlab.training.trainer_setup.open_run_data", open_run_data)
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = files_of(out)
    longer = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, epochs=5))
    with pytest.raises(type(error)):
        fit(longer, out, options=CHANGE)
    assert files_of(out) == before


def test_a_finished_run_without_checkpoint_cannot_be_changed(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "checkpoint")
    before = files_of(out)
    longer = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, epochs=5))
    with pytest.raises(ConfigError, match=r"finished run without its checkpoint, .*epochs: 2 -> 5.* add --fresh"):
        fit(longer, out, options=CHANGE)
    assert files_of(out) == before
    assert fit(CONFIG, out, options=CHANGE).was_finished


OWN = "theirs.Net"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            {},
            {"optimizer": "adamw"},
            r"the optimizer of the run in .* is sgd, and adamw cannot continue it; add --fresh",
        ),
        ({}, {"ema_decay": 0.9}, r"the run in .* has no average of the weights, and ema_decay needs one; add --fresh"),
        ({}, {"architecture": ArchitectureConfig("mlp", 20)}, "another network or other data cannot continue"),
        (
            {"architecture": ArchitectureConfig("mlp", 20)},
            {"architecture": ArchitectureConfig("mlp", 32)},
            "another network or other data cannot continue",
        ),
        ({}, {"own_model": OWN}, rf"the network of the run in .* is a ResNet, and {OWN} cannot continue it"),
        ({"own_model": OWN}, {"own_model": "a.B"}, rf"the network of the run in .* is {OWN}, and a.B cannot"),
    ],
)
@pytest.mark.parametrize("allowed", [False, True])
def test_a_checkpoint_that_cannot_be_continued_is_refused(finished, tmp_path, before, after, message, allowed):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    first, second = (
        dataclasses.replace(
            CONFIG,
            recipe=dataclasses.replace(
                CONFIG.recipe, **{name: value for name, value in fields.items() if hasattr(Recipe(), name)}
            ),
            **{name: value for name, value in fields.items() if not hasattr(Recipe(), name)},
        )
        for fields in (before, after)
    )
    write_config(out, first)
    files = files_of(out)
    with pytest.raises(ConfigError, match=message) as raised:
        open_run_dir(out, second, resume=True, fresh=False, allow_config_change=allowed)
    assert "--allow-config-change" not in str(raised.value)
    assert files_of(out) == files


@pytest.mark.parametrize("changes", [{"ema_decay": 0.0}, {"momentum": 0.0}, {"nesterov": True}])
def test_a_part_of_the_checkpoint_may_go(finished, tmp_path, changes):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    write_config(out, dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, ema_decay=0.9)))
    other = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, **changes))
    assert open_run_dir(out, other, resume=True, fresh=False, allow_config_change=True).checkpoint


def test_a_checkpoint_of_another_network_is_one_line():
    """The class has the same name as before, and other layers."""
    checkpoint = Checkpoint(**Trainer(CONFIG).state_dict())
    with pytest.raises(ConfigError, match=r"^the checkpoint is of another network \(.*\); start over") as raised:
        Trainer(dataclasses.replace(CONFIG, model=model_config("resnet14")), checkpoint=checkpoint)
    assert "\n" not in str(raised.value)


def test_a_run_that_starts_over_is_not_continued(finished, tmp_path):
    """It was killed before its first checkpoint."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "checkpoint")
    (out / "record.jsonl").write_bytes((out / "record.jsonl").read_bytes().partition(b"\n")[0] + b"\n")
    other = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, epochs=1))
    fit(other, out, options=CHANGE)
    lines = read_record(out / "record.jsonl")
    assert [line["kind"] for line in lines if line["kind"] != "signal"] == ["run", "epoch", "result"]
    assert read_config(out / "config.json") == other


def test_a_wrong_call_keeps_a_model_file_of_the_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"theirs")
    with pytest.raises(ConfigError, match="batch size 5000"):
        fit(dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, batch_size=5000)), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == {"model.safetensors"}
