"""The moving average of the weights: its values, what is evaluated and saved, and resuming."""

import dataclasses
import signal

import pytest
import torch

from helpers.killed_runs import killed_at_step
from resnetlab.config import ConfigError, Recipe, RunConfig
from resnetlab.models.model_file import load_model
from resnetlab.models.zoo import build_model, model_config
from resnetlab.training.callbacks import Callback
from resnetlab.training.fit import fit
from resnetlab.training.optimizers.weight_average import WeightAverage
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.compare_runs import run_differences
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.trainer import Trainer

CONFIG = RunConfig(
    model_config("resnet8"), recipe=recipe("digits", steps=20, batch_size=100, ema_decay=0.8, keep="best"), seed=3
)


class WeightsOfEachStep(Callback):
    """Stores the trained weights after every step."""

    def __init__(self):
        self.weights = []

    def on_step(self, trainer, metrics):
        self.weights.append({key: value.clone() for key, value in trainer.model.state_dict().items()})


def test_the_average_is_that_of_the_formula():
    """m_0 = w_0; m_n = d m_(n-1) + (1 - d) w_n with d = min(decay, (1 + n) / (10 + n)); buffers too."""
    steps = WeightsOfEachStep()
    trainer = Trainer(dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, keep="last")), [steps])
    result = trainer.fit()
    assert len(steps.weights) == 20
    for key, value in result.model.state_dict().items():
        mean = steps.weights[0][key].double()
        for number, weights in enumerate(steps.weights[1:], start=1):
            decay = min(0.8, (1 + number) / (10 + number))
            mean = decay * mean + (1 - decay) * weights[key].double()
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-6)
            assert not torch.equal(value, steps.weights[-1][key])


def test_the_average_is_evaluated_and_saved(tmp_path):
    seen = {}

    class Errors(Callback):
        def on_epoch(self, trainer, line):
            assert trainer.average is not None
            score = trainer.data.score(trainer.average.model, "val")
            seen[line["epoch"]] = score.error_pct, line["val_error_pct"]

    config = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, keep="last"))
    result = fit(config, tmp_path / "run", callbacks=[Errors()])
    assert all(of_average == recorded for of_average, recorded in seen.values())
    saved = load_model(tmp_path / "run" / "model.safetensors")[0].state_dict()
    assert all(torch.equal(saved[key], value) for key, value in result.model.state_dict().items())


def test_a_killed_run_continues_with_the_same_average(tmp_path):
    fit(CONFIG, tmp_path / "unbroken")
    options = RuntimeOptions(resume=True, checkpoint_steps=1)
    for step in (5, 9):
        assert killed_at_step(CONFIG, tmp_path / "r", step, options) == signal.SIGKILL
    fit(CONFIG, tmp_path / "r", options=options)
    assert run_differences(tmp_path / "unbroken", tmp_path / "r") == []


def test_a_step_without_a_finite_loss_is_not_averaged():
    trainer = Trainer(CONFIG)
    images, labels = next(trainer.data.batches(0))
    trainer.train_step(iter([(images, labels)]))
    assert trainer.average is not None
    before = {key: value.clone() for key, value in trainer.average.state_dict().items()}
    trainer.train_step(iter([(images * float("nan"), labels)]))
    assert all(torch.equal(before[key], value) for key, value in trainer.average.state_dict().items())


def test_counters_are_copied():
    model = build_model("resnet8")
    model.register_buffer("steps", torch.tensor(0))
    average = WeightAverage(model, 0.9)
    for number in (3, 7):
        model.get_buffer("steps").fill_(number)
        average.update(model)
    assert average.model.get_buffer("steps") == 7


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decay_out_of_range(decay):
    with pytest.raises(ConfigError, match="ema_decay must be from 0 to below 1"):
        Recipe(ema_decay=decay)


def test_processes_share_the_statistics_of_the_average_too(monkeypatch):
    """Batch normalisation has other statistics in each process; all evaluate those of the first."""
    shared = []
    monkeypatch.setattr(
        "resnetlab.training.trainer_setup.broadcast_bn_statistics", lambda model, _: shared.append(model)
    )
    trainer = Trainer(CONFIG)
    trainer.train_epoch()
    trainer.finish_epoch()
    assert trainer.average is not None
    assert shared == [trainer.model, trainer.average.model]
