"""Folding batch normalisation does not change the function."""

from typing import Any

import pytest
import torch
from torch import nn

from resnetlab.models.fuse_bn import fuse_bn
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import build_model

NETWORKS = [
    ("resnet18", {"num_classes": 7}),
    ("resnet50-v1", {"num_classes": 7}),
    ("plain20", {}),
    ("resnet20", {}),
    ("resnet20", {"shortcut": "project"}),
    ("resnet20", {"shortcut": "project_all"}),
    ("resnet11", {"block": "bottleneck"}),
    ("resnet8", {"norm": "none"}),
    ("resnet8", {"zero_init_residual": True}),
]


def network(name: str, **changes: Any) -> ResNet:
    """Build a network with random statistics, scales and shifts."""
    generator = torch.Generator().manual_seed(0)
    model = build_model(name, generator=generator, **changes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.weight.any():
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return model.eval()


@pytest.mark.parametrize(("name", "changes"), NETWORKS)
@torch.no_grad()
def test_the_same_function(name, changes):
    model = network(name, **changes)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before, after = model.double()(images.double()), fuse_bn(model).double()(images.double())
    assert (after - before).abs().max() < 1e-12 * before.abs().max()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fuse_bn(model).modules())


def test_rounded_once():
    """Each float32 weight is the one nearest to the exact product."""
    model = network("resnet8")
    exact, rounded = fuse_bn(model.double()), fuse_bn(model.float())
    pairs = zip(exact.parameters(), rounded.parameters(), strict=True)
    assert all(torch.equal(one.float(), other) for one, other in pairs)


def test_the_source_is_unchanged_and_shares_no_memory():
    model = network("resnet8")
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = fuse_bn(model)
    assert model.training
    assert not result.training
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_folding_twice_changes_nothing():
    once = fuse_bn(network("resnet8"))
    twice = fuse_bn(once)
    assert all(torch.equal(one, other) for one, other in zip(once.parameters(), twice.parameters(), strict=True))
