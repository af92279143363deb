"""Signals against a forward and a backward pass written out in double precision; hearing them changes nothing."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnetlab.config import ModelConfig, RunConfig
from resnetlab.models.zoo import build_model, model_config
from resnetlab.training.execution.execution import Execution, make_forward
from resnetlab.training.layer_stats import (
    LEAST_STEPS,
    NUM_SAMPLES,
    QUANTITIES,
    LayerStatsHook,
    conv_layers,
    measure_layer_stats,
    sampling_interval,
)
from resnetlab.training.recipes import recipe
from resnetlab.training.trainer import Trainer

TINY = ModelConfig("tiny", (1, 2), (4, 6), stem="cifar", shortcut="pad", num_classes=5)
NETWORKS = {
    "plain": dataclasses.replace(TINY, shortcut="none"),
    "pad": TINY,
    "project": dataclasses.replace(TINY, shortcut="project", stem="imagenet"),
    "project_all": dataclasses.replace(TINY, shortcut="project_all"),
    "bottleneck": dataclasses.replace(TINY, block="bottleneck", shortcut="project"),
    "bottleneck v1": dataclasses.replace(TINY, block="bottleneck", shortcut="project", bottleneck_stride="1x1"),
    "plain bottleneck": dataclasses.replace(TINY, block="bottleneck", shortcut="none"),
    "no norm": dataclasses.replace(TINY, norm="none"),
    "plain, no norm": dataclasses.replace(TINY, norm="none", shortcut="none"),
}
NUM = 32
"""Images that are looked at, of a batch of 40."""


def network(config, dead=2):
    """A network in training mode with biases, scales and shifts of its own, and `dead` channels that never fire."""
    rng = torch.Generator().manual_seed(1)
    model = build_model(config, generator=rng).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=rng)
            if name in ("layer2.0.bn1.weight", "layer2.0.conv1.weight"):
                parameter[:dead] = 0
            if name in ("layer2.0.bn1.bias", "layer2.0.conv1.bias"):
                parameter[:dead] = -1
            if name in ("layer2.1.bn2.bias", "layer2.1.bn3.bias", "layer2.1.conv2.bias"):
                parameter[-1] = -100  # the sum is below zero whatever the shortcut adds
    return model


def batch(count=40, side=12):
    rng = torch.Generator().manual_seed(2)
    images = torch.randn(count, 3, side, side, generator=rng)
    images[NUM:] *= 3  # statistics over the whole batch would differ
    return images, torch.randint(5, (count,), generator=rng)


def written_out(config, state, images, labels):
    """What a signal should hold, by layer and by block, from the weights alone; and the loss. In double precision."""
    w = {name: value.double().requires_grad_(value.is_floating_point()) for name, value in state.items()}
    expected_stats, ratios, count = {}, {}, 2 if config.block == "basic" else 3

    def respond(conv, norm, x, stride):
        weight = w[f"{conv}.weight"]
        y = F.conv2d(x, weight, w.get(f"{conv}.bias"), stride, weight.shape[-1] // 2)
        if config.norm == "batch":
            mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
            scale, shift = (w[f"{norm}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
            y = (y - mean) / (var + 1e-5).sqrt() * scale + shift
        expected_stats[conv] = {
            "response_std": y[:NUM].std().item(),
            "activation_var": y[:NUM].var().item(),
            "dead_relu_pct": None,
        }
        return y

    def fire(conv, y):
        y = y.relu()
        dead = (y[:NUM] == 0).all(-1).all(-1).all(0)
        expected_stats[conv] |= {
            "activation_var": y[:NUM].var().item(),
            "dead_relu_pct": 100 * dead.double().mean().item(),
        }
        return y

    x = fire("conv1", respond("conv1", "bn1", images.double(), 2 if config.stem == "imagenet" else 1))
    x = F.max_pool2d(x, 3, 2, 1) if config.stem == "imagenet" else x
    for stage, num_blocks in enumerate(config.stage_blocks, start=1):
        for block in (f"layer{stage}.{position}" for position in range(num_blocks)):
            stride = 2 if stage > 1 and block.endswith(".0") else 1
            places = {1: stride} if config.block == "basic" or config.bottleneck_stride == "1x1" else {2: stride}
            branch = x
            for part in range(1, count + 1):
                name = f"{block}.conv{part}"
                branch = respond(name, f"{block}.bn{part}", branch, places.get(part, 1))
                branch = fire(name, branch) if part < count else branch
            added = None
            if f"{block}.downsample.0.weight" in w:
                added = respond(f"{block}.downsample.0", f"{block}.downsample.1", x, stride)
            elif config.shortcut != "none":
                added = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, branch.shape[1] - x.shape[1]))
            ratios[block] = None if added is None else (branch[:NUM].norm() / added[:NUM].norm()).item()
            x = fire(f"{block}.conv{count}", branch if added is None else branch + added)
    loss = F.cross_entropy(x.mean((2, 3)) @ w["fc.weight"].T + w["fc.bias"], labels)
    weights = [w[f"{name}.weight"] for name in expected_stats]
    for name, weight, gradient in zip(expected_stats, weights, torch.autograd.grad(loss, weights), strict=True):
        expected_stats[name] |= {
            "grad_norm": gradient.norm().item(),
            "grad_to_weight": (gradient.norm() / weight.norm()).item(),
        }
    return expected_stats, ratios, loss.item()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_value_is_what_it_says(name):
    model, (images, labels) = network(NETWORKS[name]), batch()
    expected_stats, ratios, loss = written_out(model.config, model.state_dict(), images, labels)
    signal = measure_layer_stats(model, images, labels)
    assert signal["layers"] == list(expected_stats)
    assert signal["blocks"] == list(ratios)
    assert signal["loss"] == pytest.approx(loss, rel=1e-5)
    for quantity in QUANTITIES:
        expected = [expected_stats[layer][quantity] for layer in signal["layers"]]
        assert signal[quantity] == [value if value is None else pytest.approx(value, rel=5e-4) for value in expected]
    assert signal["residual_ratio"] == [value and pytest.approx(value, rel=1e-4) for value in ratios.values()]
    dead = dict(zip(signal["layers"], signal["dead_relu_pct"], strict=True))
    last = max(layer for layer in dead if layer.startswith("layer2.1.conv"))
    assert dead["layer2.0.conv1"] > 33.3
    assert dead[last] > 4.1


@pytest.mark.parametrize("num_dead", [0, 1, 3, 6])
def test_dead_relus_are_counted_exactly(num_dead):
    signal = measure_layer_stats(network(TINY, dead=num_dead), *batch())
    assert signal["dead_relu_pct"][signal["layers"].index("layer2.0.conv1")] == float(f"{100 * num_dead / 6:.5g}")


def test_a_channel_that_fires_once_is_not_dead():
    model, (images, labels) = network(dataclasses.replace(TINY, norm="none")), batch()
    with torch.no_grad():
        model.get_parameter("conv1.weight").zero_()[0, 0, 1, 1] = 1
        model.get_parameter("conv1.bias").copy_(torch.tensor([-50.0, 0, -1, 1]))
    for at, expected in ((NUM - 1, 50.0), (NUM, 75.0)):  # the last image that is looked at, and the next one
        seen = images.clone()
        seen[at, 0, 5, 5] = 60
        assert measure_layer_stats(model, seen, labels)["dead_relu_pct"][0] == expected


@pytest.mark.parametrize("name", [*NETWORKS, "resnet20", "plain18", "resnet50"])
def test_every_convolution_is_there_once_in_the_order_of_the_main_path(name):
    model = network(NETWORKS.get(name) or model_config(name, num_classes=5))
    names = {module: name for name, module in model.named_modules()}
    called = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, _i, _o: called.append(names[module]))
    model(batch(2, side=32)[0])
    found = [layer.name for layer in conv_layers(model)]
    assert sorted(found) == sorted(called)
    assert [name for name in found if "downsample" not in name] == [name for name in called if "downsample" not in name]
    assert all(layer.conv is model.get_submodule(layer.name) for layer in conv_layers(model))
    assert sum("downsample" not in name for name in found) == model.config.depth - 1
    signal = measure_layer_stats(model, *batch(4, side=32))
    convs = [model.get_submodule(name) for name in signal["layers"]]
    assert signal["kernels"] == [conv.kernel_size[0] for conv in convs if isinstance(conv, nn.Conv2d)]


def test_values_keep_five_digits_and_none_stands_for_what_is_not_finite():
    model, (images, labels) = network(TINY), batch()
    signal = measure_layer_stats(model, images, labels)
    values = [value for quantity in QUANTITIES for value in signal[quantity]]
    assert [float(f"{value:.4e}") for value in values] == values
    assert any(float(f"{value:.3e}") != value for value in values)
    images[3, 0, 0, 0] = math.inf
    broken = measure_layer_stats(model, images, labels)
    assert not math.isfinite(broken["loss"])
    assert broken["grad_norm"] == broken["grad_to_weight"] == broken["response_std"] == [None] * 7
    assert all(p.grad is None for p in model.parameters())


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_hooks_stand_for_the_step_alone_also_when_it_raises():
    model = network(TINY)
    hook = LayerStatsHook(model, make_forward(model, Execution()), every=2, total_steps=10)
    for step, expected in ((0, True), (1, False), (2, True)):
        with hook.record(step) as stats:
            assert (stats is not None, hooks(model) > 0) == (expected, expected)
        assert hooks(model) == 0
    with pytest.raises(RuntimeError, match="expected input"), hook.record(0):
        hook.forward(torch.zeros(2, 7, 8, 8), torch.zeros(2, dtype=torch.int64))
    assert hooks(model) == 0


def test_when_a_run_is_listened_to():
    def due(every, total):
        model = build_model(TINY)
        hook = LayerStatsHook(model, make_forward(model, Execution()), every, total)
        return [step for step in range(total) if hook.is_due(step)]

    assert due(3, 8) == [0, 3, 6, 7]
    assert due(3, 7) == [0, 3, 6]
    assert due(1, 3) == [0, 1, 2]
    assert due(100, 5) == [0, 4]
    assert due(0, 5) == []


def test_how_often_it_is_listened_to():
    assert [sampling_interval(wanted, 64_000) for wanted in (0, 1, 7, 10**6)] == [0, 1, 7, 10**6]
    assert sampling_interval(None, 10) == sampling_interval(None, NUM_SAMPLES * LEAST_STEPS) == LEAST_STEPS == 16
    assert [sampling_interval(None, total) for total in (801, 64_000, 64_001)] == [17, 1280, 1281]


def train_on(bad, num_steps, every):
    """Train on random images, those of the batches in `bad` with an infinite pixel; return the statistics."""
    config = RunConfig(TINY, recipe=recipe("digits", steps=num_steps), layer_stats_steps=every)
    trainer = Trainer(config)
    given = [batch(8) for _ in range(num_steps)]
    for number in bad:
        given[number][0][0, 0, 0, 0] = math.inf
    batches = iter([(images[:, :1], labels) for images, labels in given])
    lines = [trainer.train_step(batches).layer_stats for _ in range(num_steps)]
    assert [line is not None for line in lines] == [trainer.layer_stats.is_due(step) for step in range(num_steps)]
    return [line for line in lines if line]


def test_a_step_that_is_not_finite_has_no_gradients_and_the_next_has():
    signals = train_on([2], 7, every=2)
    assert [signal["step"] for signal in signals] == [1, 3, 5, 7]
    for signal in signals:
        bad = signal["step"] == 3
        assert math.isfinite(signal["loss"]) != bad
        assert [None in signal[name] for name in QUANTITIES[:4]] == [bad] * 4
        assert signal["grad_norm"].count(None) == 7 * bad  # not those of the step before
    with_good = train_on([], 2, every=1)
    assert signals[0] == with_good[0] != with_good[1]


def test_measuring_leaves_the_network_as_it_was():
    for training in (True, False):
        model, (images, labels) = network(TINY).train(training), batch()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        first = measure_layer_stats(model, images, labels)
        assert measure_layer_stats(model, images, labels) == first
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert {module.training for module in model.modules()} == {training}
        assert all(p.grad is None for p in model.parameters())
        assert hooks(model) == 0
    with pytest.raises(RuntimeError, match="expected input"):
        measure_layer_stats(model, images[:, :1], labels)
    assert {module.training for module in model.modules()} == {False}


def test_measuring_a_network_that_has_gradients():
    model, (images, labels) = network(TINY), batch()
    expected = measure_layer_stats(model, images, labels)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert measure_layer_stats(model, images, labels) == expected
    assert all(p.grad is not None and torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())


def test_a_layer_without_a_number_has_no_share_of_dead_relus():
    model, (images, labels) = network(TINY), batch()
    images[3, 0, 0, 0] = math.nan
    assert measure_layer_stats(model, images, labels)["dead_relu_pct"] == [None] * 7


def test_a_frozen_layer_has_no_gradient():
    model, images, labels = network(TINY), *batch()
    expected = measure_layer_stats(model, images, labels)
    model.get_submodule("layer2.0.conv1").requires_grad_(False)
    frozen = measure_layer_stats(model, images, labels)
    at = expected["layers"].index("layer2.0.conv1")
    assert frozen["grad_norm"] == [*expected["grad_norm"][:at], None, *expected["grad_norm"][at + 1 :]]
    assert frozen["response_std"] == expected["response_std"]
