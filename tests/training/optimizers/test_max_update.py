"""The limit on the step of each layer: against the definition, and without effect where no step is longer."""

import dataclasses

import pytest
import torch
from torch import nn

from resnetlab.config import ConfigError, ModelConfig, Recipe, RunConfig
from resnetlab.training.fit import fit
from resnetlab.training.optimizers.max_update import step_with_max_update
from resnetlab.training.trainer import Trainer

LIMIT = 0.05
TINY = ModelConfig("tiny", (1, 1), (4, 8), stem="cifar", num_classes=10)
SHORT = Recipe(steps=12, batch_size=16, lr=0.1)


def layers():
    """Return a large gradient on a kernel, a small one on another, a large one on a bias, and one on a zero kernel."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"steep": ((4, 3), 100.0), "flat": ((4, 3), 0.001), "bias": ((4,), 100.0), "zero": ((4, 3), 1.0)}
    parameters = {}
    for name, (size, gradient) in sizes.items():
        value = torch.zeros(size) if name == "zero" else torch.randn(size, generator=generator)
        parameters[name] = nn.Parameter(value)
        parameters[name].grad = gradient * torch.randn(size, generator=generator)
    return parameters


def test_a_long_step_is_shortened_and_its_momentum_too():
    limited, free = layers(), layers()
    optimizers = [torch.optim.SGD(group.values(), lr=0.1, momentum=0.9) for group in (limited, free)]
    before = {name: parameter.detach().clone() for name, parameter in limited.items()}
    step_with_max_update(optimizers[0], LIMIT)
    optimizers[1].step()
    change = {name: float((limited[name].detach() - before[name]).norm()) for name in limited}
    assert change["steep"] == pytest.approx(LIMIT * float(before["steep"].norm()), rel=1e-5)
    direction = nn.functional.cosine_similarity(
        *((group["steep"].detach() - before["steep"]).flatten() for group in (limited, free)), dim=0
    )
    assert float(direction) == pytest.approx(1.0, abs=1e-5)
    momentum, uncut = (
        optimizer.state[group["steep"]]["momentum_buffer"]
        for optimizer, group in zip(optimizers, (limited, free), strict=True)
    )
    assert 0.1 * float(momentum.norm()) == pytest.approx(change["steep"], rel=1e-5)
    assert momentum.norm() < 0.1 * uncut.norm()
    for name in ("flat", "bias", "zero"):
        assert torch.equal(limited[name], free[name]), name


def test_later_steps_keep_the_limit():
    parameters = layers()
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.9)
    for _ in range(5):
        before = parameters["steep"].detach().clone()
        step_with_max_update(optimizer, LIMIT)
        assert (parameters["steep"].detach() - before).norm() <= LIMIT * before.norm() * (1 + 1e-5)
        assert parameters["steep"].grad is not None
        parameters["steep"].grad.mul_(0.5)


def test_a_run_keeps_the_limit():
    trainer = Trainer(RunConfig(TINY, recipe=dataclasses.replace(SHORT, lr=1.0, max_update=LIMIT), layer_stats_steps=0))
    batches, kernels = trainer.data.batches(0), [p for p in trainer.model.parameters() if p.dim() > 1]
    shares = []
    for _ in range(4):
        before = [kernel.detach().clone() for kernel in kernels]
        trainer.train_step(batches)
        pairs = zip(kernels, before, strict=True)
        shares += [float((kernel.detach() - old).norm() / old.norm()) for kernel, old in pairs]
    assert max(shares) == pytest.approx(LIMIT, rel=1e-4)


def test_a_limit_that_no_step_reaches_changes_nothing():
    runs = [fit(RunConfig(TINY, recipe=dataclasses.replace(SHORT, max_update=limit))) for limit in (None, 1e6)]
    for first, second in zip(*(run.model.state_dict().values() for run in runs), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_the_limit_must_be_above_zero(limit):
    with pytest.raises(ConfigError, match="max_update must be above 0"):
        Recipe(max_update=limit)
