"""Exact parameter counts, MACs as in PyTorch's counter, and activation memory as in autograd."""

import pytest
import torch
from torch import nn

from resnetlab.config import BLOCK_PROPERTIES, ModelConfig
from resnetlab.models.block_registry import BLOCKS, properties_of
from resnetlab.models.blocks import BasicBlock
from resnetlab.models.cost import cost, cost_of_config
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import build_model, model_config

EXACT = [
    ("plain18", {}, 11_515_688, 1.795e9),
    ("resnet18", {"shortcut": "pad"}, 11_515_688, 1.795e9),
    ("resnet18", {}, 11_689_512, 1.814e9),
    ("plain34", {}, 21_623_848, 3.644e9),
    ("resnet34", {"shortcut": "pad"}, 21_623_848, 3.644e9),
    ("resnet34", {}, 21_797_672, 3.664e9),
    ("resnet34", {"shortcut": "project_all"}, 22_716_840, 3.831e9),
    ("resnet50-v1", {}, 25_557_032, 3.858e9),
    ("resnet50", {}, 25_557_032, 4.089e9),
    ("resnet101-v1", {}, 44_549_160, 7.570e9),
    ("resnet101", {}, 44_549_160, 7.801e9),
    ("resnet152-v1", {}, 60_192_808, 11.282e9),
    ("resnet152", {}, 60_192_808, 11.514e9),
    ("plain20", {}, 269_722, 40.6e6),
    ("resnet20", {}, 269_722, 40.6e6),
    ("resnet32", {}, 464_154, 68.9e6),
    ("resnet44", {}, 658_586, 97.2e6),
    ("resnet56", {}, 853_018, 125.5e6),
    ("plain56", {}, 853_018, 125.5e6),
    ("resnet110", {}, 1_727_962, 252.9e6),
    ("resnet1202", {}, 19_421_274, 2829e6),
    ("resnet20", {"shortcut": "project"}, 272_474, None),
]


@pytest.mark.parametrize(("name", "changes", "params", "macs"), EXACT)
def test_counts_are_exact(name, changes, params, macs):
    with torch.device("meta"):  # weights of large networks take seconds to draw, and their passes as long
        model = build_model(name, **changes)
    size = 224 if model.config.stem == "imagenet" else 32
    large = model.config.depth > 56 or size == 224  # tests below compare it with built ones
    counted = cost_of_config(model.config, size) if large else cost(build_model(name, **changes), size)
    assert counted.params == params == sum(p.numel() for p in model.parameters())
    if macs is not None:
        digits = 3 if macs > 3e9 or 1e9 < macs < 2e9 else 1
        unit = 1e9 if digits == 3 else 1e6
        tolerance = 0.5 * 10**-digits * unit if name != "resnet1202" else 0.5e6
        assert abs(counted.macs - macs) <= tolerance


def test_macs_are_those_pytorch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    model = build_model("resnet50").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    assert cost(model, 224).macs * 2 == counter.get_total_flops()


def test_activation_bytes_are_those_autograd_stores():
    """Compare with the distinct storages that autograd stores in a step of eight images."""
    model = build_model("resnet20").train()
    images = torch.rand(8, 3, 32, 32)
    stored: dict[int, torch.Tensor] = {}
    ignore = {p.data_ptr() for p in model.parameters()} | {images.data_ptr()}

    def pack(tensor):
        if tensor.data_ptr() not in ignore:
            stored[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(images)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in stored.values())
    assert loss.requires_grad
    assert cost(model, 32, batch_size=8).activation_bytes == measured


def test_layers_add_up_and_the_model_is_unchanged():
    model = build_model("resnet8").eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    counted = cost(model, 32, batch_size=4)
    assert not model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    by_name = {layer.name: layer for layer in counted.layers}
    assert by_name["layer2.0.conv1"].output_shape == (32, 16, 16)
    assert by_name["layer2.0.conv1"].macs == 32 * 16 * 9 * 16 * 16
    assert by_name["layer2.0.conv1"].params == 32 * 16 * 9
    assert by_name["fc"].macs == 640
    assert counted.macs == sum(layer.macs for layer in counted.layers)


@pytest.mark.parametrize("shortcut", ["none", "pad", "project", "project_all"])
@pytest.mark.parametrize(
    "changes",
    [
        {"stage_blocks": (1, 2, 3)},
        {"stage_blocks": (4, 1, 1), "norm": "none"},
        {"block": "bottleneck", "stage_blocks": (3, 2, 5)},
        {"block": "bottleneck", "stage_blocks": (2, 3, 3), "bottleneck_stride": "1x1", "in_channels": 1},
        {"stem": "imagenet", "stage_blocks": (1, 3, 4)},
    ],
)
def test_the_cost_of_a_configuration_is_that_of_its_network(changes, shortcut):
    config = ModelConfig(**{"stem": "cifar", "stage_channels": (8, 16, 32), "shortcut": shortcut, **changes})
    assert cost_of_config(config, 32, 5) == cost(ResNet(config), 32, 5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50-v1", "resnet110"])
def test_the_cost_of_a_named_network_is_that_of_the_built_one(name):
    assert cost_of_config(model_config(name), 64) == cost(build_model(name), 64)


class OwnLayersBlock(BasicBlock):
    """A block of one's own with a parameter, other layers, and a parameter that two layers share."""

    def __init__(self, config, in_channels, channels, *, stride):
        super().__init__(config, in_channels, channels, stride=stride)
        self.factor = nn.Parameter(torch.zeros(3))
        self.norm, self.rectifier = nn.GroupNorm(2, channels), nn.PReLU()
        self.again = nn.PReLU()
        self.again.weight = self.rectifier.weight
        self.unused = nn.ParameterList([torch.zeros(5)])

    def residual(self, x):
        return self.again(self.rectifier(self.norm(super().residual(x)))) * self.factor.sum()


def test_parameters_of_any_layer_are_counted(monkeypatch):
    monkeypatch.setitem(BLOCKS, "own", OwnLayersBlock)
    monkeypatch.setitem(BLOCK_PROPERTIES, "own", properties_of(OwnLayersBlock))
    for blocks in ((1, 1), (3, 2)):
        config = ModelConfig(stem="cifar", stage_blocks=blocks, stage_channels=(4, 8), block="own", shortcut="pad")
        model = ResNet(config)
        counted = cost(model, 8)
        assert counted.params == sum(p.numel() for p in model.parameters())
        assert cost_of_config(config, 8) == counted
        own = {layer.name: layer for layer in counted.layers}["layer2.0"]
        assert (own.kind, own.params, own.output_shape) == ("OwnLayersBlock", 3, (8, 4, 4))


def test_the_global_random_numbers_are_left_alone():
    state = torch.get_rng_state()
    cost_of_config(ModelConfig(stem="cifar", stage_blocks=(1, 1), stage_channels=(5, 7)), 8)
    assert torch.equal(torch.get_rng_state(), state)
