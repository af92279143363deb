"""Runs that end before their full length, and the epoch at which they do."""

import dataclasses
import os
import signal

import pytest

from resnetlab.config import ConfigError, DataConfig, Recipe, RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.training.callbacks import Callback
from resnetlab.training.early_stopping import epochs_without_lower_error, is_stopped_early
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.compare_runs import run_differences
from resnetlab.training.run_files.record import read_record
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError, StopSignal
from resnetlab.training.trainer import Trainer

CONFIG = RunConfig(
    model_config("resnet8"),
    DataConfig(train_images=120),
    recipe("digits", epochs=20, batch_size=60, lr=0.5, early_stop_epochs=1),
    layer_stats_steps=0,
)
"""Two steps an epoch, at a rate at which the validation error soon rises."""


@pytest.mark.parametrize(
    ("errors", "epochs"),
    [([], 0), ([50.0], 0), ([50.0, 40.0], 0), ([40.0, 50.0], 1), ([40.0, 40.0, 40.0], 2), ([9.0, 8.0, 8.5, 8.0], 2)],
)
def test_epochs_since_the_first_lowest_error(errors, epochs):
    assert epochs_without_lower_error(errors) == epochs
    assert is_stopped_early(errors, epochs + 1) is False
    assert is_stopped_early(errors, None) is False
    assert epochs == 0 or is_stopped_early(errors, epochs)


class StopAfter(Callback):
    """Sends a signal after a number of steps."""

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer, metrics):
        if metrics.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_stops_at_the_same_epoch_when_it_was_interrupted(tmp_path):
    fit(CONFIG, tmp_path / "whole")
    *lines, result = read_record(tmp_path / "whole" / "record.jsonl")
    errors = [line["val_error_pct"] for line in lines if line["kind"] == "epoch"]
    lowest = min(errors)
    assert len(errors) < 20
    assert len(errors) == errors.index(lowest) + 1 + 1
    assert (result["stopped_early"], result["epochs"], result["steps"]) == (True, len(errors), 2 * len(errors))
    last_step = 2 * len(errors) - 1  # in the epoch after which it stops
    with pytest.raises(InterruptedRunError), StopSignal() as stop_signal:
        fit(CONFIG, tmp_path / "cut", callbacks=[StopAfter(last_step)], stop_signal=stop_signal)
    fit(CONFIG, tmp_path / "cut", options=RuntimeOptions(resume=True))
    assert run_differences(tmp_path / "whole", tmp_path / "cut") == []


def test_more_epochs_for_a_run_that_stopped_train_nothing_and_it_says_so(tmp_path):
    def go_on(**changes):
        config = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, **changes))
        options = RuntimeOptions(resume=True, allow_config_change=True)
        epochs = fit(config, tmp_path, options=options).result["epochs"]
        return epochs, [line["message"] for line in read_record(tmp_path / "record.jsonl") if line["kind"] == "warning"]

    done, _ = go_on()
    again, warnings = go_on(epochs=30)
    assert again == done < 20
    assert warnings[1] == (
        f"nothing is left to train: {done} epochs are done, and 1 epoch without a lower validation error end the run; "
        "raise --early-stop-epochs to go on; the network stays as it is"
    )
    assert not any("learning rate" in warning for warning in warnings[1:])
    longer, warnings = go_on(epochs=30, early_stop_epochs=2)
    assert longer > done
    assert not any("nothing is left" in warning for warning in warnings[-2:])


def test_the_learning_rate_is_that_of_the_whole_length(tmp_path):
    whole = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, epochs=3, early_stop_epochs=None))
    stopping = dataclasses.replace(whole, recipe=dataclasses.replace(whole.recipe, early_stop_epochs=1))
    rates = []
    for index, config in enumerate((whole, stopping)):
        fit(config, tmp_path / str(index))
        lines = read_record(tmp_path / str(index) / "record.jsonl")
        rates.append([line["lr"] for line in lines if line["kind"] == "epoch"])
    assert rates[0][: len(rates[1])] == rates[1]
    assert "stopped_early" not in read_record(tmp_path / "0" / "record.jsonl")[-1]


def test_the_run_says_when_it_ends():
    lines = Trainer(dataclasses.replace(CONFIG, recipe=recipe("digits", steps=2_000, early_stop_epochs=5))).describe()
    (line,) = [line for line in lines if "ends after" in line]
    assert line.strip() == "ends after 5 epochs without a lower val error; lr as for 2,000 steps"
    assert len(line) <= 80


def test_no_epoch_at_all_is_refused():
    with pytest.raises(ConfigError, match="early_stop_epochs must be at least 1, not 0"):
        Recipe(early_stop_epochs=0)
