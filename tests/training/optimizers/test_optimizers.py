"""AdamW, LAMB and Muon as recipes name them, and gradient clipping, against their formulas."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from resnetlab.config import ConfigError, ModelConfig, Recipe, RunConfig
from resnetlab.training import trainer_setup
from resnetlab.training.fit import fit
from resnetlab.training.optimizers.lamb import Lamb
from resnetlab.training.optimizers.muon import ConvMuon
from resnetlab.training.optimizers.optimizer import parameter_groups
from resnetlab.training.run_files.checkpoint import Checkpoint
from resnetlab.training.run_files.record import read_record
from resnetlab.training.train_step import update_weights
from resnetlab.training.trainer import Trainer

TINY = ModelConfig("tiny", (1, 1), (4, 8), stem="cifar", shortcut="project", num_classes=10)
RECIPE = Recipe(steps=8, batch_size=64, lr=0.01, weight_decay=0.02, decay_norms=False)


def gradients(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(5)]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lamb_is_its_formula(decay):
    start = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
    parameter = nn.Parameter(start.clone())
    optimizer = Lamb([{"params": [parameter], "weight_decay": decay}], lr=0.1, betas=(0.8, 0.9))
    w, m, v = start.clone(), torch.zeros(3, 4).double(), torch.zeros(3, 4).double()
    for t, gradient in enumerate(gradients((3, 4), 0), 1):
        m = 0.8 * m + 0.2 * gradient
        v = 0.9 * v + 0.1 * gradient**2
        u = (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-6) + decay * w
        ratio = w.norm() / u.norm() if decay else 1.0
        w = w - 0.1 * ratio * u
        parameter.grad = gradient
        optimizer.step()
        torch.testing.assert_close(parameter.data, w, rtol=1e-6, atol=1e-7)


def test_lamb_moves_a_kernel_of_zeros():
    parameter = nn.Parameter(torch.zeros(2, 2))
    optimizer = Lamb([parameter], lr=0.1, weight_decay=0.1)
    parameter.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.allclose(parameter, torch.full((2, 2), -0.1), atol=1e-4)


def orthogonal(matrix):
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    return u @ v


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_steps_along_orthogonal_matrices(layout):
    start = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
    kernel, bias = nn.Parameter(start.clone()), nn.Parameter(torch.ones(6))
    optimizer = ConvMuon([kernel, bias], lr=0.1, betas=(0.9, 0.999), weight_decay=0.5, nesterov=False)
    average = torch.zeros(6, 36)
    for gradient in gradients((6, 4, 3, 3), 2):
        before = kernel.detach().flatten(1).clone()
        kernel.grad, bias.grad = gradient.float(), torch.ones(6)
        optimizer.step()
        average = 0.9 * average + 0.1 * gradient.float().flatten(1)
        step = (before * (1 - 0.1 * 0.5) - kernel.detach().flatten(1)) / (0.1 * 0.2 * 36**0.5)
        # The iteration of Muon brings singular values near 1, not to 1 (Jordan et al.: about 0.7 to 1.2).
        values = torch.linalg.svdvals(step)
        assert values.min() > 0.6
        assert values.max() < 1.3
        cosine = (step * orthogonal(average)).sum() / (step.norm() * orthogonal(average).norm())
        assert cosine > 0.95
    reference = nn.Parameter(torch.ones(6))
    adamw = torch.optim.AdamW([reference], lr=0.1, betas=(0.9, 0.999), weight_decay=0.5)
    for _ in range(5):
        reference.grad = torch.ones(6)
        adamw.step()
    assert torch.equal(bias, reference)


def test_gradients_are_clipped_to_their_joint_norm():
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4))]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    for limit, length in ((2.0, 2.0), (20.0, 10.0)):
        for parameter, value in zip(parameters, (6 / 3**0.5, 4.0), strict=True):  # norms 6 and 8
            parameter.data.zero_()
            parameter.grad = torch.full_like(parameter, value)
        update_weights(optimizer, 1.0, recipe=dataclasses.replace(RECIPE, clip_grad_norm=limit))
        moved = torch.cat([parameter.detach().flatten() for parameter in parameters]).norm()
        assert moved.item() == pytest.approx(length, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("adamw", {"step", "exp_avg", "exp_avg_sq"}),
        ("lamb", {"step", "exp_avg", "exp_avg_sq"}),
        ("muon", {"step", "exp_avg", "exp_avg_sq", "momentum_buffer"}),
    ],
)
def test_a_run_resumes_bit_for_bit(name, state):
    recipe = dataclasses.replace(RECIPE, optimizer=name, clip_grad_norm=0.5)
    config = RunConfig(TINY, recipe=recipe, seed=1, layer_stats_steps=0)

    def train(trainer, stop):
        batches = trainer.data.batches(0, trainer.state.step)
        while trainer.state.step < stop:
            trainer.train_step(batches)
        return trainer

    whole = train(Trainer(config), 8)
    half = train(Trainer(config), 4)
    saved = half.state_dict()
    kinds = {key.split(".")[1] for key in saved["tensors"] if key.startswith("optimizer.")}
    assert kinds == state
    copies = {
        key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in saved["tensors"].items()
    }
    resumed = train(Trainer(config, checkpoint=Checkpoint(saved["state"], copies)), 8)
    expected = whole.state_dict()["tensors"]
    assert all(torch.equal(tensor, expected[key]) for key, tensor in resumed.state_dict()["tensors"].items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beta2": 1.0}, "beta2 must be from 0 to below 1, not 1.0"),
        ({"clip_grad_norm": 0.0}, "clip_grad_norm must be above 0, not 0.0"),
        ({"optimizer": "lamb", "nesterov": True}, "nesterov is of the optimizers sgd and muon"),
    ],
)
def test_invalid_fields_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(RECIPE, **fields)


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_an_undone_first_step_leaves_nothing_behind(name):
    """Steps whose losses are read together are undone if one is not finite (`unread_steps.py`)."""
    config = RunConfig(TINY, recipe=dataclasses.replace(RECIPE, optimizer=name), seed=1, layer_stats_steps=0)
    trainer, fresh = Trainer(config), Trainer(config)
    trainer.begin_epoch()
    trainer.snapshot.save(trainer)
    batches = trainer.data.batches(0)
    trainer.train_step(batches)
    trainer.train_step(batches)
    trainer.snapshot.restore(trainer)
    for other in (trainer, fresh):
        again = other.data.batches(0)
        for _ in range(2):
            other.train_step(again)
    expected = fresh.state_dict()["tensors"]
    assert all(torch.equal(tensor, expected[key]) for key, tensor in trainer.state_dict()["tensors"].items())


class Counting(torch.optim.Optimizer):
    """Steps that shrink with their number, which is kept as an int, with a float beside it."""

    def __init__(self, groups):
        super().__init__(groups, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["step"] = state.get("step", 0) + 1
                state["mean"] = 0.1 * float(parameter.grad.mean()) + 0.9 * state.get("mean", 0.0)
                parameter -= group["lr"] / state["step"] * (parameter.grad + state["mean"])


@pytest.fixture
def counting(monkeypatch):
    monkeypatch.setattr(
        trainer_setup, "make_optimizer", lambda model, config: Counting(parameter_groups(model, config))
    )


def test_numbers_of_a_registered_optimizer_are_stored(counting):
    test_a_run_resumes_bit_for_bit("sgd", set())
    trainer = Trainer(RunConfig(TINY, recipe=RECIPE))
    trainer.train_step(trainer.data.batches(0))
    state = json.loads(json.dumps(trainer.state_dict()["state"]))
    assert {value for name, value in state["optimizer"].items() if name.startswith("step.")} == {1}


def test_numbers_of_undone_steps_leave_nothing_behind(counting):
    test_an_undone_first_step_leaves_nothing_behind("sgd")


def test_an_optimizer_that_cannot_be_stored_is_refused_at_its_first_step(counting, monkeypatch, tmp_path):
    message = "optimizer Counting has a state 'step' of type list, which a checkpoint cannot store"
    monkeypatch.setattr(Counting, "step", lambda self: self.state[self.param_groups[0]["params"][0]].update(step=[1]))
    with pytest.raises(ConfigError, match=message):
        fit(RunConfig(TINY, recipe=RECIPE), tmp_path / "run")
    assert read_record(tmp_path / "run" / "record.jsonl")[-1]["status"] == "failed"
