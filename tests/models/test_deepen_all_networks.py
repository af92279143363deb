"""Every network of the catalogue computes the same with one more identity block in each stage."""

import pytest
import torch

from resnetlab.models.deepen import deepen, max_difference, needs_calibration
from resnetlab.models.zoo import CATALOGUE, build_model, model_config

LONG = ("resnet101", "resnet101-v1", "resnet152", "resnet152-v1", "resnet1202")
ROUNDING = 2e-5
"""Largest difference over the largest logit; rounding grows with depth."""


def images(config, count):
    side = 32 if config.stem == "imagenet" else 16
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in CATALOGUE]
)
def test_the_same_function(name):
    """Options A and B are bit-identical in both modes; plain networks in evaluation, and calibrated up to rounding."""
    model = build_model(model_config(name, num_classes=10), generator=torch.Generator().manual_seed(0))
    batch = images(model.config, 8)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(2))
                layer.bias.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(3))
        model.train()(batch)  # updates the running statistics
        largest = float(model.eval()(batch).abs().max())
    blocks = [number + 1 for number in model.config.stage_blocks]
    deeper = deepen(model, blocks)
    assert max_difference(model, deeper, batch) == 0.0
    assert len(deeper.state_dict()) > len(model.state_dict())
    if needs_calibration(model.config):
        calibrated = deepen(model, blocks, images=batch)
        assert max_difference(model, calibrated, batch) <= ROUNDING * largest
    else:
        with torch.no_grad():
            assert torch.equal(model.train()(batch), deeper.train()(batch))
