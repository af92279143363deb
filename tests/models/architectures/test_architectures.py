"""Architectures other than ResNet: their depth, their weights, and the addition as their only switch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnetlab.architecture_config import ARCHITECTURES, ArchitectureConfig
from resnetlab.config import ConfigError
from resnetlab.models.architectures.build import CLASSES, build_architecture
from resnetlab.models.architectures.conv1d import Conv1dNet
from resnetlab.models.architectures.transformer import NUM_HEADS, WIDTH, EncoderBlock, Transformer

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
BLOCKS = ("MlpBlock", "VggBlock", "Conv1dBlock", "EncoderBlock")


def build(name, *, residual=True, num_blocks=2, seed=0):
    rule = ARCHITECTURES[name]
    config = ArchitectureConfig(name, rule.per_block * num_blocks + rule.others, residual)
    return build_architecture(config, torch.Generator().manual_seed(seed)).eval()


def blocks(network):
    return [module for module in network.modules() if type(module).__name__ in BLOCKS]


def images(count=3):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def zero_branches(network):
    """Make every F(x) 0, as a deepened network has it."""
    for block in blocks(network):
        ends = ("projection", "linear2") if isinstance(block, EncoderBlock) else ("norm2",)
        for end in ends:
            nn.init.zeros_(getattr(block, end).weight)
            nn.init.zeros_(getattr(block, end).bias)


def test_every_name_has_a_class():
    assert list(CLASSES) == list(ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("num_blocks", [1, 3])
def test_depth_counts_the_layers_with_weights(name, num_blocks):
    network = build(name, num_blocks=num_blocks)
    rule = ARCHITECTURES[name]
    found = [module for module in network.modules() if isinstance(module, LAYERS)]
    assert len(found) == rule.per_block * num_blocks + rule.others
    assert len(blocks(network)) == num_blocks * (3 if name == "vgg" else 1)
    assert network(images()).shape == (3, 10)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_both_arms_start_from_the_same_weights_and_differ(name):
    before = torch.random.get_rng_state()
    plain, residual, other = build(name, residual=False), build(name), build(name, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    states = plain.state_dict(), residual.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(next(other.parameters()), next(plain.parameters()))
    assert not torch.allclose(plain(images()), residual(images()))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_with_f_of_zero_only_the_residual_network_passes_its_input_on(name):
    residual, plain = build(name), build(name, residual=False)
    zero_branches(residual)
    zero_branches(plain)
    seen = []
    for block in blocks(residual):
        block.register_forward_hook(lambda block, inputs, output: seen.append((inputs[0], output)))
    residual(images())
    assert len(seen) == len(blocks(residual))
    for inputs, output in seen:
        assert torch.equal(inputs, output)
        assert inputs.std() > 0.1
    out = plain(images())
    torch.testing.assert_close(out, out[:1].expand_as(out))  # nothing of the images is left


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_weight_has_a_gradient(name):
    network = build(name).train()
    F.cross_entropy(network(images()), torch.tensor([0, 1, 2])).backward()
    assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_attention_is_that_of_pytorch():
    network = build("transformer", num_blocks=1)
    assert isinstance(network, Transformer)
    block = network.blocks[0]
    assert isinstance(block, EncoderBlock)
    reference = nn.MultiheadAttention(WIDTH, NUM_HEADS, batch_first=True).eval()
    with torch.no_grad():
        reference.in_proj_weight.copy_(block.query_key_value.weight)
        reference.in_proj_bias.copy_(nn.init.normal_(block.query_key_value.bias))
        reference.out_proj.weight.copy_(block.projection.weight)
        reference.out_proj.bias.copy_(nn.init.normal_(block.projection.bias))
    x = torch.randn(2, 16, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block._attend(x), reference(x, x, x, need_weights=False)[0], rtol=1e-4, atol=1e-5)


def test_a_sequence_has_the_rows_of_the_image():
    network = build("conv1d", num_blocks=1)
    assert isinstance(network, Conv1dNet)
    first = network.stem[0]
    assert isinstance(first, nn.Conv1d)
    seen = []
    first.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    x = images(1)
    network(x)
    assert all(torch.equal(seen[0][0, :, row], x[0, 0, row]) for row in range(8))


def test_weights_have_the_variance_of_he_initialisation():
    weight = build("mlp", num_blocks=8).state_dict()["blocks.0.linear1.weight"]
    assert weight.std().item() == pytest.approx((2 / 48) ** 0.5, rel=0.06)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("lstm",), "architecture 'lstm' is unknown; choose one of: mlp, vgg, conv1d, transformer"),
        (("mlp", 9), r"depth 9 of mlp is not of the form 2n\+2; use 4, 6, …"),
        (("vgg", 4), r"depth 4 of vgg is not of the form 6n\+4; use 10, 16, …"),
        (("mlp", 4, True, 0), "in_channels must be at least 1"),
        (("mlp", 4, True, 1, 10), "image_size must be at least 8 and a multiple of 4, not 10"),
        (("mlp", 4, True, 1, 8, 1), "num_classes must be at least 2"),
    ],
)
def test_invalid_values(values, message):
    with pytest.raises(ConfigError, match=message):
        ArchitectureConfig(*values)
