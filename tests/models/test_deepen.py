"""Deepening (section 1): the deeper network computes the same, bit-identically or up to rounding."""

import copy
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from resnetlab.config import ConfigError, ModelConfig
from resnetlab.models import deepen as deepen_module
from resnetlab.models.deepen import deepen, deeper_config, max_difference, needs_calibration
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import CATALOGUE, build_model, model_config

ROUNDING = 5e-6
"""Largest difference over the largest logit; 2.3e-6 was measured (plain18 to 34, training mode)."""
CLASSES = 10


def make_generator(seed):
    return torch.Generator().manual_seed(seed)


def batch(size, seed, count=4):
    generator = make_generator(seed)
    return torch.randn(count, 3, size, size, generator=generator), torch.arange(count) % CLASSES


def trained(name, size, **changes):
    """Return a network with random scales and shifts, after two steps on random images."""
    generator = make_generator(0)
    model = build_model(name, CLASSES, generator=generator, **changes)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
            torch.nn.init.normal_(layer.bias, 0.0, 0.3, generator=generator)
    steps(model, [batch(size, seed) for seed in (1, 2)], lr=0.001)
    return model.eval()


def steps(model, batches, lr):
    """Take plain SGD steps; return the loss before each."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=lr)
    losses = []
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def copied(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def contains(model, tensors):
    """Return whether the network has each of the tensors under its key, bit-identically."""
    return all(torch.equal(model.state_dict()[key], tensor) for key, tensor in tensors.items())


@torch.no_grad()
def difference_in_training(model, deeper, images):
    """Return the largest difference of logits over the largest logit, both networks in training mode."""
    logits = copy.deepcopy(model).train()(images)
    return float((logits - copy.deepcopy(deeper).train()(images)).abs().max() / logits.abs().max())


@torch.no_grad()
def largest_logit(model, images):
    return float(model.eval()(images).abs().max())


NARROW = {"stage_channels": (8, 16, 32, 64)}
"""The full width is tested in test_deepen_all_networks.py."""
EXACT = [
    ("resnet18", 34, 64, NARROW),
    ("resnet50", 101, 64, NARROW),
    ("resnet50-v1", 101, 64, NARROW),
    ("resnet20", 56, 32, {"shortcut": "pad"}),
    ("resnet20", 56, 32, {"shortcut": "project"}),
    ("resnet29", 56, 32, {"block": "bottleneck"}),
    ("resnet56", 110, 16, {"stage_channels": (4, 8, 16)}),
    ("resnet20", 56, 32, {"norm": "none"}),
    ("plain20", 56, 32, {"norm": "none"}),
    ("resnet20", 32, 32, {"norm": "none", "shortcut": "project_all"}),
]


@pytest.mark.parametrize(("name", "to", "size", "changes"), EXACT)
def test_bit_identical_in_both_modes(name, to, size, changes):
    model = trained(name, size, **changes)
    before = copied(model)
    deeper = deepen(model, to, generator=make_generator(3))
    assert deeper.config.depth == to > model.config.depth
    images, _ = batch(size, 4)
    assert max_difference(model, deeper, images) == 0.0
    assert difference_in_training(model, deeper, images) == 0.0
    assert contains(deeper, before)
    assert contains(model, before)


CALIBRATED = [
    ("plain18", 34, 64, NARROW),
    ("plain20", 56, 32, {}),
    ("resnet20", 56, 32, {"shortcut": "project_all"}),
    ("resnet29", 56, 32, {"shortcut": "project_all", "block": "bottleneck"}),
]


@pytest.mark.parametrize(("name", "to", "size", "changes"), CALIBRATED)
def test_equal_up_to_rounding_where_bn_passes_channels_on(name, to, size, changes):
    model = trained(name, size, **changes)
    assert needs_calibration(model.config)
    before = copied(model)
    images, other = batch(size, 4, 16)[0], batch(size, 5, 16)[0]
    scale = largest_logit(model, other)

    plain = deepen(model, to)
    assert max_difference(model, plain, other) == 0.0
    assert difference_in_training(model, plain, images) > 0.1

    deeper = deepen(model, to, images=images)
    assert max_difference(model, deeper, images) < ROUNDING * scale
    assert max_difference(model, deeper, other) < ROUNDING * scale
    assert difference_in_training(model, deeper, images) < ROUNDING
    assert ROUNDING < difference_in_training(model, deeper, other) < difference_in_training(model, plain, other) / 3
    assert contains(deeper, before)
    assert contains(model, before)


OPTION_C, NO_NORM = {"shortcut": "project_all"}, {"norm": "none"}
SMALL = [("plain8", {}), ("resnet8", {}), ("resnet8", OPTION_C), ("plain8", NO_NORM), ("resnet8", NO_NORM)]


@pytest.mark.parametrize(("name", "changes"), SMALL)
def test_each_inserted_block_is_the_identity(name, changes):
    deeper = deepen(trained(name, 16, **changes), (2, 1, 3)).eval()
    x = torch.rand(2, 64, 5, 5) * 100
    with torch.no_grad():
        assert torch.equal(deeper.get_submodule("layer3.1")(x), x)
        assert torch.equal(deeper.get_submodule("layer3.2")(x), x)
        assert not torch.equal(deeper.get_submodule("layer3.0")(torch.rand(2, 32, 5, 5)), x)


@pytest.mark.parametrize("name", ["resnet20", "plain20"])
def test_random_blocks_would_be_another_function(name, monkeypatch):
    model = trained(name, 16)
    monkeypatch.setattr(deepen_module, "make_identity", lambda block, moments: None)
    images, _ = batch(16, 4)
    assert max_difference(model, deepen(model, 32), images) > 0.1 * largest_logit(model, images)


def test_keys_are_those_of_a_network_of_that_depth():
    model = build_model("resnet50", CLASSES)
    deeper = deepen(model, (3, 5, 7, 3))
    assert list(deeper.state_dict()) == list(ResNet(deeper.config).state_dict())
    assert set(model.state_dict()) < set(deeper.state_dict())
    inserted = set(deeper.state_dict()) - set(model.state_dict())
    assert {key.rsplit(".", 2)[0] for key in inserted} == {"layer2.4", "layer3.6"}


def test_mode_dtype_and_switches_stay():
    model = build_model("resnet8", CLASSES).double().train()
    model.activation_checkpointing = True
    model.get_submodule("layer1.0.bn1").eval()
    model.conv1.weight.requires_grad_(False)
    model(batch(8, 0)[0].double()).sum().backward()
    deeper = deepen(model, 14)
    assert deeper.training
    assert deeper.activation_checkpointing
    assert not deeper.get_submodule("layer1.0.bn1").training
    assert deeper.get_submodule("layer1.1.bn1").training
    assert not deeper.conv1.weight.requires_grad
    assert {p.dtype for p in deeper.parameters()} == {torch.float64}
    assert all(p.grad is None for p in deeper.parameters())
    assert model.fc.bias.grad is not None
    assert not any(m.training for m in deepen(model.eval(), 14).modules())


def test_bit_identical_with_channels_last():
    model = trained("resnet20", 32).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    images = batch(32, 4)[0].contiguous(memory_format=torch.channels_last)
    assert max_difference(model, deepen(model, 56), images) == 0.0


def test_the_generator_determines_the_new_weights():
    model = build_model("resnet8", CLASSES)
    first, again, other = (copied(deepen(model, 14, generator=make_generator(seed))) for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert {key for key in first if not torch.equal(first[key], other[key])} == {
        f"layer{stage}.1.conv{i}.weight" for stage in (1, 2, 3) for i in (1, 2)
    }
    assert float(first["layer3.1.conv1.weight"].std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)


def test_a_dead_channel():
    """Its variance on the images is 0; no division by it occurs."""
    model = trained("plain8", 16)
    with torch.no_grad():
        model.get_parameter("layer2.0.bn2.weight")[3:5] = 0
        model.get_parameter("layer2.0.bn2.bias")[3:5] = torch.tensor([-1.0, 2.0])  # 0 and 2 after the ReLU
    images, _ = batch(16, 4, 16)
    deeper = deepen(model, 20, images=images)
    scale = deeper.get_parameter("layer2.1.bn1.weight")[3:5]
    torch.testing.assert_close(scale, torch.full((2,), 1e-5**0.5))
    assert deeper.get_parameter("layer2.1.bn1.bias")[3:5].tolist() == [0, 2]
    assert max_difference(model, deeper, images) < ROUNDING * largest_logit(model, images)
    assert difference_in_training(model, deeper, images) < ROUNDING


@pytest.mark.parametrize(("name", "changes"), SMALL)
def test_training_continues_and_every_new_layer_learns(name, changes):
    model = trained(name, 16, **changes)
    images, labels = batch(16, 4, 16)
    deeper = deepen(model, 14, images=images, generator=make_generator(3))
    before = copied(deeper)
    losses = steps(deeper, [(images, labels)] * 2, lr=0.1)
    inserted = {key: weight for key, weight in deeper.named_parameters() if key not in model.state_dict()}
    assert len(inserted) >= 12
    assert [key for key, weight in inserted.items() if weight.grad is None or not weight.grad.any()] == []
    losses += steps(deeper, [(images, labels)] * 10, lr=0.1)
    assert [key for key, weight in inserted.items() if torch.equal(weight, before[key])] == []
    assert losses[0] == pytest.approx(steps(model, [(images, labels)], lr=0.0)[0], rel=1e-5)  # the loss of the original
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.98 * losses[0]


def test_max_difference():
    model, other = (build_model("resnet8", CLASSES, generator=make_generator(seed)) for seed in (0, 1))
    model.get_submodule("layer1.0.bn1").eval()
    modes = [m.training for net in (model, other) for m in net.modules()]
    images, _ = batch(16, 2)
    found = max_difference(model, other, images)
    assert modes == [m.training for net in (model, other) for m in net.modules()]
    assert found == (model.eval()(images) - other.eval()(images)).abs().max().item() > 0.1
    assert max_difference(model, model, images) == 0.0


CUSTOM = ModelConfig(name="mine", stage_blocks=(2, 3), stage_channels=(8, 16))
BOTTLENECK = {"block": "bottleneck"}


@pytest.mark.parametrize(
    ("config", "to", "name", "blocks"),
    [
        (model_config("plain18"), 34, "plain34", (3, 4, 6, 3)),
        (model_config("resnet50"), 152, "resnet152", (3, 8, 36, 3)),
        (model_config("resnet101-v1"), 152, "resnet152-v1", (3, 8, 36, 3)),
        (model_config("resnet8"), 1202, "resnet1202", (200, 200, 200)),
        (model_config("plain20"), 50, "plain50-cifar", (8, 8, 8)),
        (model_config("resnet50-cifar"), 56, "resnet56", (9, 9, 9)),
        (model_config("resnet29", **BOTTLENECK), 101, "resnet101-cifar", (11, 11, 11)),
        (model_config("resnet18"), [3, 4, 6, 3], "resnet34", (3, 4, 6, 3)),
        (model_config("resnet20"), (3, 3, 4), "custom", (3, 3, 4)),
        (model_config("resnet18"), (2, 2, 3, 2), "custom", (2, 2, 3, 2)),
        (CUSTOM, (2, 4), "mine", (2, 4)),
    ],
)
def test_deeper_configurations(config, to, name, blocks):
    assert deeper_config(config, to) == replace(config, name=name, stage_blocks=blocks)
    if name in CATALOGUE:
        assert deeper_config(config, to) == model_config(name)


@pytest.mark.parametrize(
    ("config", "to", "message"),
    [
        (model_config("resnet20"), 57, "depth 57 is not of the form 6n+2; the nearest are 56 and 62"),
        (model_config("resnet29", **BOTTLENECK), 50, "depth 50 is not of the form 9n+2; the nearest are 47 and 56"),
        (model_config("resnet20"), 20, "resnet20 has 20 layers already; give a depth above that, not 20"),
        (model_config("plain56"), 20, "plain56 has 56 layers already; give a depth above that, not 20"),
        (model_config("plain20"), (3, 3, 3), "plain20 has 20 layers already; give a stage more blocks than 3 3 3"),
        (model_config("plain20"), (9, 2, 9), "stage 2 of plain20 has 3 blocks; give 3 or more, not 2"),
        (model_config("plain20"), (9, 9), "9 9 are the blocks of 2 stages, and plain20 has 3; give 3 numbers"),
        (model_config("resnet18"), 50, "depth 50 does not fit resnet18: with basic blocks Table 1 has 34 layers; or"),
        (model_config("resnet50"), 110, "with bottleneck blocks Table 1 has 101 and 152 layers; or give the blocks"),
        (model_config("resnet34"), 50, "with basic blocks Table 1 has nothing deeper; or give the blocks of each"),
        (CUSTOM, 20, "mine has 2 3 blocks, and no rule derives those of 20 layers; give the blocks of each stage"),
        (model_config("plain29", **BOTTLENECK), 56, "a plain bottleneck cannot be the identity: it squeezes 4c chan"),
    ],
)
def test_impossible_depths_are_refused(config, to, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        deeper_config(config, to)
