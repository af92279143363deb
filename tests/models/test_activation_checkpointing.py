import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F

from resnetlab.models.activation_checkpointing import checkpoint_segments, run_checkpointed
from resnetlab.models.blocks import BasicBlock
from resnetlab.models.zoo import build_model

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 3, 9, 3])


def seeded(name, **changes):
    return build_model(name, generator=torch.Generator().manual_seed(0), **changes).train()


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


def two_steps(model, activation_checkpointing, precision=contextlib.nullcontext):
    """Everything that two steps leave: losses, gradients, and the state dict with BN's statistics."""
    model = copy.deepcopy(model)
    model.activation_checkpointing = activation_checkpointing
    images = F.interpolate(IMAGES, 64) if model.config.stem == "imagenet" else IMAGES
    left = {}
    for step in range(2):
        with precision():
            loss = F.cross_entropy(model(images.roll(step, 0)), LABELS)
        model.zero_grad()
        loss.backward()
        left |= {f"loss {step}": loss.detach()}
        left |= {f"grad {step} {name}": p.grad for name, p in model.named_parameters()}
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.01 * p.grad
    return left | model.state_dict()


def kept_bytes(model, images):
    """Bytes that autograd holds between the forward and the backward pass, parameters aside."""
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _logits = model(images)  # named, so that addresses stay taken
    return sum(kept.values())


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
def test_the_same_to_the_last_bit(name, changes, precision):
    model = seeded(name, **changes)
    without, with_it = (
        two_steps(model, activation_checkpointing, precision) for activation_checkpointing in (False, True)
    )
    assert list(without) == list(with_it)
    assert all(torch.equal(without[key], with_it[key]) for key in without)
    assert any(key.endswith("running_var") for key in without) == (model.config.norm == "batch")


def test_channels_last_too():
    model = seeded("resnet20")
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # a stub lacks it
    without, with_it = (two_steps(model, activation_checkpointing) for activation_checkpointing in (False, True))
    assert all(torch.equal(without[key], with_it[key]) for key in without)


def test_it_keeps_less_and_only_in_training():
    model = seeded("resnet110")
    without = kept_bytes(model, IMAGES)
    model.activation_checkpointing = True
    assert kept_bytes(model, IMAGES) < 0.25 * without
    state = list(model.state_dict())
    assert state == list(seeded("resnet110").state_dict())
    model.eval()
    assert kept_bytes(model, IMAGES) > 0.5 * without
    model.train()
    with torch.no_grad():
        assert not model(IMAGES).requires_grad


def test_the_statistics_move_once_and_the_layers_come_back():
    model = seeded("resnet20")
    model.activation_checkpointing = True
    loss = F.cross_entropy(model(IMAGES), LABELS)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    loss.backward(retain_graph=True)
    first = grads(model)
    loss.backward()  # the segments are made a third time
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(torch.equal(twice, 2 * once) for twice, once in zip(grads(model), first, strict=True))
    assert model.bn1.num_batches_tracked == model.get_buffer("layer1.0.bn1.num_batches_tracked") == 1
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(m.momentum == 0.1 and m.track_running_stats for m in norms)


def test_frozen_statistics_stay_in_use():
    """BN layers in evaluation mode inside a network that trains, as fine-tuning has them."""

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
def test_no_block_overwrites_what_it_was_given(name, norm):
    for stage in seeded(name, norm=norm).stages.values():
        for block in stage:
            assert isinstance(block, BasicBlock)
            x = torch.randn(2, block.conv1.in_channels, 6, 6)
            given = x.clone()
            block(x)
            assert torch.equal(x, given)
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


def test_one_block_in_all():
    model = seeded("resnet8", stage_blocks=(1,), stage_channels=(4,))
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(run_checkpointed(model.stages.values(), x), model.stages["stage1"](x))


@pytest.mark.slow
def test_it_compiles():
    """Compiled with and without: the same, and BN's statistics moved once."""
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
