"""Conversion of tensors: moved, folded and added values leave the function unchanged."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import public_resnets, rare_resnets
from resnetlab.models.blocks import PadShortcut
from resnetlab.models.importing.convert import (
    BN_EPSILON,
    append_zero_channels,
    bn_of_conv,
    convert_state_dict,
    with_bn_epsilon,
)
from resnetlab.models.importing.infer_architecture import infer_architecture
from resnetlab.models.importing.zero_channels import CLEAR_SCORE, infer_zero_channels
from resnetlab.models.zoo import build_model


def split(x, outputs):
    """Option A with half of the zero channels in front, as a loop over channels."""
    result = x.new_zeros(len(x), outputs, *x.shape[2:])
    front = (outputs - x.shape[1]) // 2
    for channel in range(x.shape[1]):
        result[:, front + channel] = x[:, channel]
    return result


class SplitShortcut(PadShortcut):
    def forward(self, x):
        return split(x[:, :, :: self.stride, :: self.stride], x.shape[1] + self.extra_channels)


def with_split(model):
    """The same weights, with the zero channels split."""
    for stage in model.stages.values():
        for block in stage:
            if isinstance(block.downsample, PadShortcut):
                block.downsample = SplitShortcut(block.downsample.extra_channels, block.downsample.stride)
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stage_blocks": (1, 1, 1)},
        {"stage_channels": (4, 7, 16)},
        {"stage_channels": (8, 8, 16)},
        {"block": "bottleneck", "stage_channels": (4, 8, 16)},
        {"norm": "none"},
        {"stem": "imagenet", "stage_blocks": (2, 1, 2, 1), "stage_channels": (8, 16, 24, 50)},
    ],
)
def test_appending_computes_what_splitting_did(changes):
    original = with_split(public_resnets.randomise(build_model("resnet20", **changes)))
    model = build_model("resnet20", **changes)
    model.load_state_dict(append_zero_channels(original.state_dict(), original.config))
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, found = original.double()(images.double()), model.eval().double()(images.double())
    assert (expected - found).abs().max() < 1e-12 * expected.abs().max()
    model.load_state_dict(original.state_dict())
    with torch.no_grad():  # without the change it is another function
        assert (expected - model(images.double())).abs().max() > 1e-3 * expected.abs().max()


def test_appending_moves_numbers_and_makes_none():
    state = public_resnets.randomise(build_model("resnet14")).state_dict()
    moved = append_zero_channels(state, build_model("resnet14").config)
    assert list(moved) == list(state)
    for key, tensor in state.items():
        assert torch.equal(tensor.flatten().sort().values, moved[key].flatten().sort().values)
        assert moved[key].is_contiguous()
        before = key.startswith(("conv1", "bn1", "layer1", "layer2.0.conv1"))  # nothing was padded yet
        inside = ".bn1" in key or key == "fc.bias" or tensor.dim() == 0
        assert torch.equal(tensor, moved[key]) == (before or inside), key


def converted(net):
    tensors = net.state_dict()
    network = infer_architecture({key: tuple(x.shape) for key, x in tensors.items()}, in_order=True)
    return convert_state_dict(tensors, network, build_model(network.config).state_dict())


def batch_norm(x, state, name):
    mean, var, scale, shift = (state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, scale, shift, eps=BN_EPSILON)


def test_a_bias_before_batch_normalisation_goes_into_its_mean():
    net = public_resnets.randomise(public_resnets.Torchvision(bias=True))
    state = converted(net)
    block = net.layer2[0]
    x = torch.randn(2, 16, 5, 5)
    with torch.no_grad():
        expected = block.bn2(block.conv2(x))
        found = F.conv2d(x, state["layer2.0.conv2.weight"], padding=1)
        found = batch_norm(found, state, "layer2.0.bn2")
    torch.testing.assert_close(found, expected)
    assert not torch.equal(state["layer2.0.bn2.running_mean"], block.bn2.running_mean)


def test_a_projection_without_batch_normalisation_gets_one_that_passes_on():
    net = public_resnets.randomise(rare_resnets.D2L())
    state, projection = converted(net), net.get_submodule("net.5.conv3")
    assert isinstance(projection, nn.Conv2d)
    assert projection.bias is not None
    x = torch.randn(2, 16, 5, 5)
    plain = batch_norm(x, state, "layer2.0.downsample.1")
    torch.testing.assert_close(plain, x + projection.bias[:, None, None], rtol=0, atol=1e-6)
    torch.testing.assert_close(state["layer2.0.downsample.0.weight"], projection.weight, rtol=0, atol=0)


def test_an_epsilon_moves_into_the_variances_of_the_file_alone():
    net = public_resnets.randomise(rare_resnets.D2L())
    network = infer_architecture({key: tuple(x.shape) for key, x in net.state_dict().items()}, in_order=True)
    state = converted(net)
    moved = with_bn_epsilon(state, 1e-3, network.keys)
    added = "layer2.0.downsample.1.running_var"
    changed = {key for key in state if not torch.equal(state[key], moved[key])}
    assert changed == {key for key in state if key.endswith("running_var")} - {added}
    x = torch.randn(2, 16, 5, 5)
    torch.testing.assert_close(
        batch_norm(x, moved, "layer2.0.downsample.1"), batch_norm(x, state, "layer2.0.downsample.1"), rtol=0, atol=0
    )


def test_projections_where_nothing_changes_make_option_c_of_it():
    net = public_resnets.randomise(public_resnets.Torchvision())
    first = net.layer1[0]
    first.downsample = nn.Sequential(public_resnets.conv(8, 8, 1), nn.BatchNorm2d(8))
    public_resnets.randomise(net)
    model = build_model(
        infer_architecture({k: tuple(x.shape) for k, x in net.state_dict().items()}, in_order=True).config
    )
    assert model.config.shortcut == "project_all"
    model.load_state_dict(converted(net))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), net(images), rtol=0, atol=1e-5)


def test_the_norm_after_a_convolution():
    names = {"conv1": "bn1", "layer1.10.conv3": "layer1.10.bn3", "layer2.0.downsample.0": "layer2.0.downsample.1"}
    for conv, norm in names.items():
        assert bn_of_conv(f"{conv}.bias") == norm


def test_our_epsilon_is_that_of_pytorch():
    assert nn.BatchNorm2d(1).eps == BN_EPSILON


def test_evidence_needs_a_difference_between_channels():
    model = build_model("resnet20", generator=torch.Generator().manual_seed(0))
    assert infer_zero_channels(model.state_dict(), model.config)[0] is None  # fresh
    for front, expected in ((0, "append"), (8, "split")):
        state = public_resnets.randomise(build_model("resnet20")).state_dict()
        assert infer_zero_channels(state, model.config)[0] is None  # random numbers are no evidence
        for stage, fed, start in ((2, 16, front), (3, 32, 2 * front)):
            for block in range(3):
                state[f"layer{stage}.{block}.bn2.bias"][start : start + fed] -= 1.5
                state[f"layer{stage}.{block}.conv1.weight"][:, start : start + fed] *= 1.5 if block else 1
        inferred, score = infer_zero_channels(state, model.config)
        assert inferred == expected
        assert abs(score) > CLEAR_SCORE
        assert (
            infer_zero_channels(state, build_model("plain20").config)[0] == expected
        )  # the weights decide, whatever the shortcut


def test_numbers_that_are_none_are_no_evidence():
    model = build_model("resnet8")
    torch.nn.init.constant_(model.get_parameter("layer2.0.bn2.bias"), torch.nan)
    assert infer_zero_channels(model.state_dict(), model.config)[0] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"block": "bottleneck"},
        {"norm": "none"},
        {"stage_blocks": (1, 1, 1)},
        {"stage_channels": (16, 16, 16)},
        {"stage_channels": (1, 2, 3)},
        {"shortcut": "project"},
    ],
)
def test_evidence_can_be_looked_for_in_every_network(changes):
    model = build_model("resnet20", **changes)
    assert infer_zero_channels(model.state_dict(), model.config)[0] is None
