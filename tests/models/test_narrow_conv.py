"""Strided 1x1 convolutions with few channels: equal to nn.Conv2d, and trained without a crash of oneDNN."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from resnetlab.models.blocks import NARROW, SubsampledConv1x1
from resnetlab.models.zoo import build_model


@pytest.mark.parametrize("channels", [1, 3, 4, 6, 8])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_output_and_gradients_equal_those_of_conv2d(channels, size):
    ours = SubsampledConv1x1(channels, 9, 1, 2, bias=True).double()
    theirs = nn.Conv2d(channels, 9, 1, 2).double()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, channels, *size, dtype=torch.float64)
    for conv in (ours, theirs):
        conv(images).square().sum().backward()
    torch.testing.assert_close(ours(images), theirs(images))
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_only_narrow_strided_projections_are_subsampled():
    def projections(*channels):
        model = build_model("resnet8", 10, shortcut="project", stage_blocks=(1, 1), stage_channels=channels)
        return [type(module) for name, module in model.named_modules() if name.endswith("downsample.0")]

    assert projections(NARROW - 1, 2 * NARROW) == [SubsampledConv1x1]
    assert projections(NARROW, 2 * NARROW) == [nn.Conv2d]


def test_a_narrow_network_trains():
    """Heap corruption ends the process at some later allocation, hence a process of its own and many steps."""
    code = """
import torch
from resnetlab.models.zoo import build_model
torch.set_num_threads(1)
model = build_model("resnet8", 10, shortcut="project", stage_blocks=(1, 1), stage_channels=(4, 8))
model = model.to(memory_format=torch.channels_last)
for _ in range(20):
    images = torch.randn(100, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    model(images).square().sum().backward()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
