"""A user's own block, optimizer, schedule, augmentation and recipe, registered without a fork."""

import dataclasses
import importlib.util

import pytest
import torch

import resnetlab
from resnetlab.config import ConfigError, Recipe, RunConfig
from resnetlab.data.augmentation import CUSTOM_PARAMS, NUM_PARAMS, augmentation_params
from resnetlab.training.run_files.checkpoint import load_checkpoint

from conftest import ROOT

EXAMPLE = ROOT / "examples" / "extend.py"


@pytest.fixture(scope="module")
def example():
    """The example as a module; its names stay registered for this process."""
    spec = importlib.util.spec_from_file_location("extend", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config(**changes):
    model = resnetlab.model_config("resnet8", block="scaled")
    return RunConfig(model, recipe=resnetlab.recipe("mine", steps=12, **changes), seed=1)


def test_the_example_is_short():
    code = [line for line in EXAMPLE.read_text().splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(code) <= 60


def test_a_block_without_its_residual_function_can_still_learn(example):
    block = resnetlab.build_model("resnet8", block="scaled", zero_init_residual=True).blocks[0].state_dict()
    assert block["scale"] == 0
    assert block["bn2.weight"].any()


def test_it_trains_and_resumes_bit_for_bit(example, tmp_path):
    whole = resnetlab.fit(config(), tmp_path / "whole")
    assert whole.result["status"] == "done"
    assert any(name.endswith("scale") for name, _ in whole.model.named_parameters())

    class Stop(resnetlab.Callback):
        def on_step(self, trainer, metrics):
            if metrics.step == 7:
                trainer.stop_signal.signum = 15

    with pytest.raises(resnetlab.InterruptedRunError):
        resnetlab.fit(config(), tmp_path / "r", callbacks=[Stop()])
    saved = load_checkpoint(tmp_path / "r" / "checkpoint")
    assert saved is not None
    kinds = {name.split(".")[1] for name in saved.tensors if name.startswith("optimizer.")}
    assert kinds == {"exp_avg", "exp_avg_sq", "step"}
    again = resnetlab.fit(config(), tmp_path / "r", options=resnetlab.RuntimeOptions(resume=True))
    theirs = whole.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in again.model.state_dict().items())


@pytest.mark.parametrize("field", ["optimizer", "schedule", "augmentations"])
def test_each_extension_changes_the_run(example, field):
    plain = {"optimizer": "sgd", "schedule": "constant", "augmentations": ()}[field]
    ours = resnetlab.fit(config()).model.state_dict()
    other = resnetlab.fit(config(**{field: plain})).model.state_dict()
    assert not all(torch.equal(value, other[name]) for name, value in ours.items())


def test_the_learning_rate_is_the_schedules(example):
    class Rates(resnetlab.Callback):
        def __init__(self):
            self.seen = []

        def on_step(self, trainer, metrics):
            self.seen.append(metrics.lr)

    rates = Rates()
    resnetlab.Trainer(config(), [rates]).fit()
    assert rates.seen == pytest.approx([0.003 * (1 - step / 12) ** 0.5 for step in range(12)])


def test_registered_augmentations_get_their_own_random_numbers():
    plain, extended = augmentation_params(0, 3, 10), augmentation_params(0, 3, 10, num_custom=2)
    assert torch.equal(extended[:, :NUM_PARAMS], plain)
    custom = extended[:, NUM_PARAMS:]
    assert custom.shape == (10, 2 * CUSTOM_PARAMS)
    assert custom.unique().numel() == custom.numel()
    assert not torch.equal(custom[:, :CUSTOM_PARAMS], custom[:, CUSTOM_PARAMS:])


def test_names_are_checked(example):
    for register, value in (
        (resnetlab.register_optimizer, example.radam),
        (resnetlab.register_schedule, example.square_root),
        (resnetlab.register_augmentation, example.noise),
    ):
        with pytest.raises(ConfigError, match="exists already; choose another name"):
            register({example.radam: "sgd", example.square_root: "step", example.noise: "brightness"}[value], value)
        with pytest.raises(ConfigError, match="has no name"):
            register("", value)
    with pytest.raises(ConfigError, match="recipe 'digits' exists already"):
        resnetlab.register_recipe(Recipe("digits"))
    for changes, message in (
        ({"optimizer": "lion"}, "optimizer 'lion' is unknown; known: sgd, adamw, lamb, muon"),
        ({"schedule": "steps"}, "schedule 'steps' is unknown; known: constant, step"),
        ({"augmentations": ("cutout",)}, "augmentation 'cutout' is unknown"),
    ):
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(Recipe(), **changes)
