"""What learns in a run that starts from a file, and how fast, against a loop that is written out by hand."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnetlab.config import ConfigError, ModelConfig, Recipe, RunConfig
from resnetlab.models.model_file import load_model
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.record import read_record
from resnetlab.training.trainer import Trainer

TINY = ModelConfig("tiny", (1, 2), (4, 8), stem="cifar", shortcut="project", num_classes=10)
FIRST = Recipe(steps=30, batch_size=64, lr=0.1)
TUNED = Recipe(
    steps=20, batch_size=150, lr=0.05, weight_decay=0.01, schedule="cosine", warmup_steps=3, crop_padding=1, flip=True
)
"""8 steps an epoch."""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A network that has learnt a little."""
    out = tmp_path_factory.mktemp("runs") / "first"
    fit(RunConfig(TINY, recipe=FIRST), out)
    return out / "model.safetensors"


def starting(file, **changes):
    return RunConfig(TINY, recipe=dataclasses.replace(TUNED, **changes), weights=str(file), seed=4)


def by_hand(config):
    """Weights and statistics after a run, one parameter after another, as the definitions say."""
    training, tuned = Trainer(config), config.recipe
    model = training.model
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    factor = {"conv1": 3, "bn1": 3, "layer1": 2, "layer2": 1, "fc": 0}
    velocity, batches = {}, iter(())
    for step in range(tuned.steps):
        epoch, at = divmod(step, 8)
        if at == 0:
            batches = iter(training.data.batches(epoch))
        images, labels = next(batches)
        alone = epoch < tuned.frozen_epochs
        for module in norms.values():
            module.train(not alone and not tuned.freeze_bn)
        names = [
            name
            for name, _ in model.named_parameters()
            if name.startswith("fc") or not (alone or (tuned.freeze_bn and name.rpartition(".")[0] in norms))
        ]
        parameters = [model.get_parameter(name) for name in names]
        gradients = torch.autograd.grad(F.cross_entropy(model(images), labels), parameters)
        fallen = (step - 3) / (tuned.steps - 3)
        lr = tuned.lr * ((step + 1) / 3 if step < 3 else (1 + math.cos(math.pi * fallen)) / 2)
        with torch.no_grad():
            for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
                velocity[name] = 0.9 * velocity.get(name, 0) + gradient + tuned.weight_decay * parameter
                step_direction = velocity[name]
                if tuned.nesterov:
                    step_direction = gradient + tuned.weight_decay * parameter + 0.9 * velocity[name]
                parameter -= lr * tuned.layer_decay ** factor[name.partition(".")[0]] * step_direction
    return model.state_dict()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_decay": 0.5},
        {"frozen_epochs": 1},
        {"freeze_bn": True},
        {"frozen_epochs": 2, "layer_decay": 0.6, "freeze_bn": True},
        {"frozen_epochs": 1, "layer_decay": 0.6},
        {"nesterov": True, "steps": 8},  # further on, rounding has grown beyond the tolerance on some processors
    ],
    ids=str,
)
def test_a_run_is_the_loop_written_out(file, changes):
    config = starting(file, **changes)
    expected, start = by_hand(config), load_model(file)[0].state_dict()
    for key, value in fit(config).model.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)
        if not changes:
            assert not torch.equal(value, start[key])  # everything learns: the comparison above is of something


def test_while_the_head_learns_alone_nothing_else_moves(file):
    start = load_model(file)[0].state_dict()
    end = fit(starting(file, frozen_epochs=9)).model.state_dict()  # longer than the run
    assert {key for key in end if not torch.equal(end[key], start[key])} == {"fc.weight", "fc.bias"}


def test_frozen_batch_normalisation_stays_and_all_else_moves(file):
    start = load_model(file)[0].state_dict()
    fitted = fit(starting(file, freeze_bn=True))
    stays = {key for key, value in fitted.model.state_dict().items() if torch.equal(value, start[key])}
    norms = {name for name, module in fitted.model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {key.rpartition(".")[0] for key in stays} == norms
    assert len(stays) == 5 * len(norms)
    assert all(parameter.requires_grad for parameter in fitted.model.parameters())  # so that it can be trained further


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("stages", [1, 4])
def test_the_learning_rate_falls_stage_by_stage(file, stem, stages):
    model = ModelConfig("any", (1,) * stages, (4,) * stages, stem=stem, num_classes=10)
    training = Trainer(RunConfig(model, recipe=Recipe(layer_decay=0.5)))
    scale = {id(p): group["lr_scale"] for group in training.optimizer.param_groups for p in group["params"]}
    parts = ["fc", *(f"layer{stage}" for stage in range(stages, 0, -1))]
    for name, parameter in training.model.named_parameters():
        part = name.partition(".")[0]
        assert scale.pop(id(parameter)) == 0.5 ** (parts.index(part) if part in parts else stages + 1)
    assert scale == {}


def test_without_these_fields_there_is_one_group():
    (group,) = Trainer(RunConfig(TINY)).optimizer.param_groups
    assert group["lr_scale"] == 1


def test_nothing_is_listened_to_while_convolutions_have_no_gradient(file, tmp_path):
    config = dataclasses.replace(starting(file, frozen_epochs=1), layer_stats_steps=3)
    fit(config, tmp_path / "r")
    lines = read_record(tmp_path / "r" / "record.jsonl")
    signals = [line for line in lines if line["kind"] == "signal"]
    assert [line["step"] for line in signals] == [10, 13, 16, 19, 20]
    assert all(value is not None for line in signals for value in line["grad_norm"])


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"activation_checkpointing": True}], ids=str)
def test_other_ways_to_compute_freeze_the_same(file, changes):
    config = dataclasses.replace(starting(file, frozen_epochs=1, steps=12, freeze_bn=True), **changes)
    plain = fit(dataclasses.replace(config, precision="fp32", activation_checkpointing=False)).model.state_dict()
    start, end = load_model(file)[0].state_dict(), fit(config).model.state_dict()
    exact = "activation_checkpointing" in changes
    for key, value in end.items():
        assert torch.equal(value, start[key]) == torch.equal(plain[key], start[key])
        torch.testing.assert_close(value, plain[key], rtol=0 if exact else 0.1, atol=0 if exact else 0.05)


@pytest.mark.slow  # the compiler takes seconds a block, and again where what is frozen changes
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # PyTorch's own, as inductor loads
def test_a_compiled_run_freezes_the_same(tmp_path):
    one_block = ModelConfig("tiny", (1,), (4,), stem="cifar", num_classes=10)
    fit(RunConfig(one_block, recipe=FIRST), tmp_path / "first")
    tuned = starting(tmp_path / "first" / "model.safetensors", frozen_epochs=1, steps=12)
    config = dataclasses.replace(tuned, model=one_block)
    eager = fit(config).model.state_dict()
    for key, value in fit(dataclasses.replace(config, compile="on")).model.state_dict().items():
        torch.testing.assert_close(value, eager[key], rtol=1e-3, atol=1e-4)


def test_fields_are_checked_and_need_a_file():
    with pytest.raises(ConfigError, match="frozen_epochs must be at least 0, not -1"):
        Recipe(frozen_epochs=-1)
    for factor in (0.0, 1.5):
        with pytest.raises(ConfigError, match=f"layer_decay must be above 0 and at most 1, not {factor}"):
            Recipe(layer_decay=factor)
    for frozen in (Recipe(frozen_epochs=1), Recipe(freeze_bn=True)):
        with pytest.raises(ConfigError, match=r"needs trained weights, .* name a model file with --from"):
            RunConfig(recipe=frozen)
    RunConfig(recipe=Recipe(layer_decay=0.5))


def test_the_named_recipe_fits_the_network():
    small, large = (recipe("finetune", ModelConfig(stem=stem)) for stem in ("cifar", "imagenet"))
    assert (small.crop, large.crop, large.crop_padding) == ("pad", "resized", 0)
    assert recipe("finetune", ModelConfig(stem="imagenet"), crop="pad").crop == "pad"  # what is given counts
    assert recipe("cifar-paper", ModelConfig(stage_blocks=(18, 18, 18), stage_channels=(1, 1, 1))).initial_lr == 0.01
