"""Blocks that change the shortcut or the residual function, against formulas written out here."""

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from resnetlab.config import BLOCK_PROPERTIES, ConfigError, Recipe, RunConfig
from resnetlab.models.block_registry import BLOCKS, properties_of
from resnetlab.models.blocks import BasicBlock
from resnetlab.models.cost import cost_of_config
from resnetlab.models.deepen import deepen, max_difference
from resnetlab.models.variants.step_noise import StepNoise
from resnetlab.models.zoo import build_model, model_config
from resnetlab.system.process_group import ProcessGroup
from resnetlab.training.block_noise import BlockNoise


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


IMAGES = torch.randn(4, 3, 16, 16, generator=generator(9))
X = torch.randn(5, 16, 7, 7, generator=generator(8)).relu()


def block_of(name, position=1, **changes) -> Any:
    """The second block of a network (identity shortcut), or another one, with random numbers in every parameter."""
    model = build_model(f"resnet20-{name}", generator=generator(), **changes).eval()
    for index, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, 0.1, 0.3, generator=generator(index))
    return model.blocks[position]


def residual_of(block, x):
    """F of the basic block."""
    return block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))


def gate_of(block, x):
    weight, bias = block.gate.weight, block.gate.bias
    return 1 / (1 + torch.exp(-F.conv2d(x, weight, bias, stride=block.gate.stride)))


def fixup_of(block, x):
    b1, b2, b3, b4 = (getattr(block, f"shift{number}").value for number in (1, 2, 3, 4))
    return block.scale.value * block.conv2(F.relu(block.conv1(x + b1) + b2) + b3) + b4


def excited(block, x):
    """Scale the channels of x; the 1x1 convolutions of a mean are matrices."""
    first, second = block.se.fc1, block.se.fc2
    hidden = F.relu(x.mean((2, 3)) @ first.weight[:, :, 0, 0].T + first.bias)
    return x * torch.sigmoid(hidden @ second.weight[:, :, 0, 0].T + second.bias)[:, :, None, None]


FORMULAS = {
    "constant-scaling": lambda block, x, skip: (residual_of(block, x) + skip) / 2,
    "exclusive-gating": lambda block, x, skip: (
        gate_of(block, x) * residual_of(block, x) + (1 - gate_of(block, x)) * skip
    ),
    "shortcut-gating": lambda block, x, skip: residual_of(block, x) + (1 - gate_of(block, x)) * skip,
    "dropout-shortcut": lambda block, x, skip: residual_of(block, x) + skip,
    "rezero": lambda block, x, skip: block.scale.value * residual_of(block, x) + skip,
    "skipinit": lambda block, x, skip: block.scale.value * block.conv2(F.relu(block.conv1(x))) + skip,
    "fixup": lambda block, x, skip: fixup_of(block, x) + skip,
    "se": lambda block, x, skip: excited(block, residual_of(block, x)) + skip,
}


@pytest.mark.parametrize("position", [1, 3], ids=["identity", "option A"])
@pytest.mark.parametrize("name", FORMULAS)
@torch.no_grad()
def test_evaluation(name, position):
    block = block_of(name, position)
    skip = X if position == 1 else torch.cat([X[:, :, ::2, ::2], X.new_zeros(5, 16, 4, 4)], dim=1)
    torch.testing.assert_close(block(X.clone()), F.relu(FORMULAS[name](block, X, skip)), rtol=1e-4, atol=1e-5)


def test_every_block_declares_what_the_configuration_uses():
    for name, block in BLOCKS.items():
        assert properties_of(block) == BLOCK_PROPERTIES[name], name


@torch.no_grad()
def test_rezero_and_fixup_start_as_their_shortcuts():
    for name in ("rezero", "skipinit", "fixup"):
        for block in build_model(f"resnet20-{name}", generator=generator()).blocks[:3]:
            assert torch.equal(block(X.clone()), X)


def test_initial_gates_are_nearly_open():
    block: Any = build_model("resnet8-shortcut-gating", generator=generator()).blocks[0]
    assert torch.equal(block.gate.bias, torch.full((16,), -6.0))


def test_the_initialisation_of_fixup():
    """Zhang et al. (2019), section 3: head and last layer of each branch 0, the others scaled by 1 / sqrt(L)."""
    usual: Any = build_model("resnet20", generator=generator())
    fixup: Any = build_model("resnet20-fixup", generator=generator())
    assert not fixup.fc.weight.any()
    assert not fixup.fc.bias.any()
    for before, block in zip(usual.blocks, fixup.blocks, strict=True):
        torch.testing.assert_close(block.conv1.weight, before.conv1.weight / math.sqrt(9))
        assert not block.conv2.weight.any()
        assert block.conv1.bias is None
    assert torch.equal(fixup.conv1.weight, usual.conv1.weight)


def test_survival_falls_linearly_to_one_half():
    model = build_model("resnet20-stochastic-depth")
    assert [block.survival for block in model.blocks] == pytest.approx([1 - number / 18 for number in range(1, 10)])


@torch.no_grad()
def test_stochastic_depth():
    """Huang et al. (2016), equations 2 and 5."""
    block = block_of("stochastic-depth", position=2)
    residual = residual_of(block, X)
    torch.testing.assert_close(block(X.clone()), F.relu(block.survival * residual + X))
    block.noise.block = 2
    block.train()
    dropped = 0
    for step in range(300):
        block.noise.set(step * 7919, 0, X.device)
        kept = bool(block.noise.block_uniform(X) < block.survival)
        dropped += not kept
        if step < 20:
            torch.testing.assert_close(block(X.clone()), F.relu(residual_of(block, X) + X) if kept else X)
    assert 0.10 < dropped / 300 < 0.24  # 1 - survival is 1/6


@torch.no_grad()
def test_dropout_on_the_shortcut():
    block = block_of("dropout-shortcut").train()
    block.noise.set(11, 0, X.device)
    shortcut = block(X.clone())
    mask = block.noise.uniform(X) >= 0.5
    torch.testing.assert_close(shortcut, F.relu(residual_of(block, X) + torch.where(mask, 2 * X, torch.zeros(()))))
    assert 0.47 < float(mask.float().mean()) < 0.53


def test_step_noise_is_uniform_and_independent():
    noise, x = StepNoise(), torch.zeros(64, 4, 16, 16)
    noise.set(123456789, 0, x.device)
    values = noise.uniform(x)
    assert (float(values.min()) >= 0, float(values.max()) < 1) == (True, True)
    counts = torch.histc(values, 16, 0, 1) / values.numel() * 16
    assert float((counts - 1).abs().max()) < 0.05
    flat = values.view(64, -1)
    assert float((flat[1:].flatten() - 0.5).mul(flat[:-1].flatten() - 0.5).mean().abs()) < 12 * 1e-4
    other = StepNoise()
    other.block = 1
    other.set(123456789, 0, x.device)
    assert float(((values - 0.5) * (other.uniform(x) - 0.5)).mean().abs()) < 12 * 1e-4


@pytest.mark.parametrize(("processes", "micro_batches"), [(1, 1), (2, 1), (1, 4), (2, 2), (3, 1)])
@pytest.mark.parametrize("name", ["stochastic-depth", "dropout-shortcut"])
def test_processes_and_micro_batches_draw_what_one_process_draws(name, processes, micro_batches):
    """Each image's numbers depend on its position in the batch alone."""
    model, batch = build_model(f"resnet8-{name}", generator=generator()), torch.zeros(12, 3, 4, 4)
    run = RunConfig(recipe=Recipe(batch_size=12), seed=5)
    whole = BlockNoise(model, run, ProcessGroup(), batch.device)
    whole.set(7)
    noise: Any = model.blocks[1].noise
    expected = noise.block_uniform(batch) if name == "stochastic-depth" else noise.uniform(batch)
    found = torch.full_like(expected, -1)
    for rank in range(processes):
        run = dataclasses.replace(run, grad_accum_steps=micro_batches)
        part = BlockNoise(model, run, ProcessGroup(rank, processes), batch.device)
        for number in range(micro_batches):
            part.set(7, number)
            size = 12 // processes // micro_batches
            if name == "stochastic-depth":
                assert torch.equal(noise.block_uniform(batch[:size]), expected)
            else:
                start = number * (12 // micro_batches) + rank * size
                found[start : start + size] = noise.uniform(batch[start : start + size])
    assert name == "stochastic-depth" or torch.equal(found, expected)
    whole.set(8)
    assert not torch.equal(noise.uniform(batch), expected)


def test_without_a_trainer_the_global_generator_draws():
    block = block_of("dropout-shortcut").train()
    torch.manual_seed(0)
    one, other = block(X.clone()), block(X.clone())
    torch.manual_seed(0)
    assert torch.equal(block(X.clone()), one)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("shortcut", ["pad", "project", "project_all"])
@pytest.mark.parametrize("name", ["rezero", "skipinit", "fixup", "se"])
def test_deepening_computes_the_same(name, shortcut):
    model = build_model(f"resnet8-{name}", shortcut=shortcut, generator=generator())
    for index, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, 0, 0.1, generator=generator(index))
    deeper = deepen(model.eval(), 14, generator=generator(3))
    assert max_difference(model, deeper, IMAGES) == 0.0
    deeper.train()(IMAGES).sum().backward()
    added = [block for stage in deeper.stages.values() for block in list(stage)[1:]]
    for block in added:  # not dead: a factor of 0, or a last layer of 0, learns
        assert isinstance(block, BasicBlock)
        assert any(p.grad is not None and p.grad.any() for p in block.parameters())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("constant-scaling", "its shortcut halves the input"),
        ("exclusive-gating", "its gate never opens the shortcut completely"),
        ("shortcut-gating", "its gate never opens the shortcut completely"),
        ("dropout-shortcut", "training drops half of the values on its shortcut"),
        ("stochastic-depth", "evaluation scales each residual function by its probability"),
    ],
)
def test_deepening_is_refused_with_the_reason(name, reason):
    with pytest.raises(ConfigError, match=f"a {name} block cannot be the identity: {reason}"):
        deepen(build_model(f"resnet8-{name}"), 14)


@pytest.mark.parametrize("name", ["rezero", "stochastic-depth", "exclusive-gating", "fixup"])
def test_a_plain_network_of_such_blocks_is_refused(name):
    with pytest.raises(ConfigError, match=f"block {name} needs a shortcut"):
        model_config(f"plain20-{name}")


def test_normalisation_follows_from_the_block():
    assert model_config("resnet20-fixup").norm == "none"
    assert model_config("resnet20", block="skipinit").norm == "none"
    with pytest.raises(ConfigError, match='block fixup needs norm="none", not "batch"'):
        model_config("resnet20-fixup", norm="batch")


def test_se_resnet_50_has_the_published_parameters():
    """timm's seresnet50: 28.09 M."""
    assert cost_of_config(model_config("resnet50-se"), 64).params == 28_088_024


@pytest.mark.parametrize("name", ["rezero", "fixup", "se", "exclusive-gating"])
def test_cost_counts_every_parameter(name):
    model = build_model(f"resnet14-{name}")
    assert cost_of_config(model.config, 32).params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", [name for name in BLOCKS if "bottleneck" not in name and name != "basic"])
def test_all_blocks_share_the_initial_weights_of_the_basic_block(name):
    basic, other = (build_model(f"resnet14{end}", generator=generator()).state_dict() for end in ("", f"-{name}"))
    kernels = ["conv1.weight", "layer1.0.conv1.weight", "layer3.1.conv2.weight", "fc.weight"]
    if name == "fixup":
        kernels = ["conv1.weight"]
    assert all(torch.equal(basic[key], other[key]) for key in kernels)
