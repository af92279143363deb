"""Activation checkpointing: bit-identical training with less memory."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F

from resnetlab.config import BLOCK_PROPERTIES
from resnetlab.models.activation_checkpointing import checkpoint_segments, run_checkpointed
from resnetlab.models.block_registry import BLOCKS, properties_of
from resnetlab.models.blocks import BasicBlock
from resnetlab.models.zoo import build_model

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 3, 9, 3])


def seeded(name, **changes):
    return build_model(name, generator=torch.Generator().manual_seed(0), **changes).train()


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


def two_steps(model, activation_checkpointing, precision=contextlib.nullcontext):
    """Losses and gradients of two steps, and the state dict afterwards, with BN's statistics."""
    model = copy.deepcopy(model)
    model.activation_checkpointing = activation_checkpointing
    images = F.interpolate(IMAGES, 64) if model.config.stem == "imagenet" else IMAGES
    results = {}
    for step in range(2):
        with precision():
            loss = F.cross_entropy(model(images.roll(step, 0)), LABELS)
        model.zero_grad()
        loss.backward()
        results |= {f"loss {step}": loss.detach()}
        results |= {f"grad {step} {name}": p.grad for name, p in model.named_parameters()}
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.01 * p.grad
    return results | model.state_dict()


def stored_bytes(model, images):
    """Bytes that autograd stores between the forward and the backward pass, without parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    stored = {}

    def count(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        _logits = model(images)  # the name keeps the tensors alive, so no address is used twice
    return sum(stored.values())


def grads(model):
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("precision", [contextlib.nullcontext, bfloat16])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("resnet20", {}),
        ("resnet56", {}),
        ("plain20", {}),
        ("plain8", {"norm": "none"}),
        ("resnet20", {"block": "bottleneck", "shortcut": "project_all"}),
        ("resnet18", {"stage_channels": (4, 8, 16, 32)}),
    ],
)
def test_training_is_bit_identical(name, changes, precision):
    model = seeded(name, **changes)
    stored, recomputed = (
        two_steps(model, activation_checkpointing, precision) for activation_checkpointing in (False, True)
    )
    assert list(stored) == list(recomputed)
    assert all(torch.equal(stored[key], recomputed[key]) for key in stored)
    assert any(key.endswith("running_var") for key in stored) == (model.config.norm == "batch")


class OwnDropoutBlock(BasicBlock):
    """A block of one's own that takes numbers as PyTorch's layers do."""

    def residual(self, x):
        return F.dropout(super().residual(x), 0.5, self.training)


@pytest.mark.parametrize("block", ["stochastic-depth", "dropout-shortcut", "own"])
def test_random_blocks_are_recomputed_with_the_same_numbers(monkeypatch, block):
    """Without a trainer, which would give them the key of the step."""
    monkeypatch.setitem(BLOCKS, "own", OwnDropoutBlock)
    monkeypatch.setitem(BLOCK_PROPERTIES, "own", properties_of(OwnDropoutBlock))
    model, results = seeded("resnet20", block=block), []
    for activation_checkpointing in (False, True):
        torch.manual_seed(0)
        results.append(two_steps(model, activation_checkpointing))
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_training_is_bit_identical_with_channels_last():
    model = seeded("resnet20")
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # missing in the stub
    stored, recomputed = (two_steps(model, activation_checkpointing) for activation_checkpointing in (False, True))
    assert all(torch.equal(stored[key], recomputed[key]) for key in stored)


def test_it_stores_less_in_training_only():
    model = seeded("resnet110")
    all_stored = stored_bytes(model, IMAGES)
    model.activation_checkpointing = True
    assert stored_bytes(model, IMAGES) < 0.25 * all_stored
    state = list(model.state_dict())
    assert state == list(seeded("resnet110").state_dict())
    model.eval()
    assert stored_bytes(model, IMAGES) > 0.5 * all_stored
    model.train()
    with torch.no_grad():
        assert not model(IMAGES).requires_grad


def test_statistics_are_updated_once():
    model = seeded("resnet20")
    model.activation_checkpointing = True
    loss = F.cross_entropy(model(IMAGES), LABELS)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    loss.backward(retain_graph=True)
    first = grads(model)
    loss.backward()  # computes the segments a third time
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(torch.equal(twice, 2 * once) for twice, once in zip(grads(model), first, strict=True))
    assert model.bn1.num_batches_tracked == model.get_buffer("layer1.0.bn1.num_batches_tracked") == 1
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(m.momentum == 0.1 and m.track_running_stats for m in norms)


def test_layers_in_evaluation_mode():
    """BN in evaluation mode inside a network in training mode, as in fine-tuning."""

    def frozen(activation_checkpointing):
        model = seeded("resnet20")
        model.activation_checkpointing = activation_checkpointing
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        F.cross_entropy(model(IMAGES), LABELS).backward()
        return grads(model)

    assert all(torch.equal(a, b) for a, b in zip(frozen(False), frozen(True), strict=True))


@pytest.mark.parametrize(("name", "norm"), [("resnet20", "batch"), ("plain20", "batch"), ("plain20", "none")])
def test_no_block_overwrites_its_input(name, norm):
    for stage in seeded(name, norm=norm).stages.values():
        for block in stage:
            assert isinstance(block, BasicBlock)
            x = torch.randn(2, block.conv1.in_channels, 6, 6)
            before = x.clone()
            block(x)
            assert torch.equal(x, before)
            assert x._version == 0


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("resnet20", [1, 1, 1]),
        ("resnet56", [1, 2, 2, 2, 2]),
        ("resnet110", [2] * 9),
        ("resnet1202", [6, 7] * 14),  # 29 segments of about sqrt(200 / 4)
        ("resnet50", [1, 1, 1]),
    ],
)
def test_segments(name, sizes):
    with torch.device("meta"):
        stage = build_model(name).stages["stage1"]
    cut = checkpoint_segments(stage)
    assert [block for segment in cut for block in segment] == list(stage)
    if name == "resnet1202":
        assert len(cut) == 29
        assert {len(segment) for segment in cut} == {6, 7}
    else:
        assert [len(segment) for segment in cut] == sizes


def test_a_network_of_one_block():
    model = seeded("resnet8", stage_blocks=(1,), stage_channels=(4,))
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(run_checkpointed(model.stages.values(), x), model.stages["stage1"](x))


@pytest.mark.slow
def test_compilation():
    """Compiled with and without checkpointing: equal gradients, and BN's statistics are updated once."""
    gradients, statistics = [], []
    for activation_checkpointing in (False, True):
        model = seeded("resnet20")
        model.activation_checkpointing = activation_checkpointing
        compiled = torch.compile(model, backend="aot_eager")
        F.cross_entropy(compiled(IMAGES), LABELS).backward()
        gradients.append(grads(model))
        statistics.append(dict(model.named_buffers()))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(torch.equal(statistics[0][key], statistics[1][key]) for key in statistics[0])
    torch._dynamo.reset()
