"""A block of the user's own: registered by name, it works like the built-in blocks."""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import resnetlab
from resnetlab.config import BLOCK_PROPERTIES, ConfigError, ModelConfig, Preprocessing
from resnetlab.models.activation_checkpointing import checkpoint_segments
from resnetlab.models.block_registry import BLOCKS, register_block
from resnetlab.models.blocks import BasicBlock, Block, make_conv, make_norm, make_shortcut, relu
from resnetlab.models.cost import cost
from resnetlab.models.deepen import deepen, max_difference
from resnetlab.models.fuse_bn import fuse_bn
from resnetlab.models.model_card import ModelCard, ModelFileError
from resnetlab.models.model_file import load_model, save_model
from resnetlab.models.zoo import build_model, model_config
from resnetlab.serialization import from_json, to_json
from resnetlab.training.layer_stats import conv_layers


class TripleConv(Block):
    """Three 3x3 convolutions, the last with twice the channels; norms are registered behind all convolutions."""

    num_convs = 3
    expansion = 2

    def __init__(self, config, in_channels, channels, *, stride):
        super().__init__(config, in_channels, channels, stride=stride)
        out_channels = channels * self.expansion
        self.conv1 = make_conv(config, in_channels, channels, kernel=3, stride=stride)
        self.conv2 = make_conv(config, channels, channels, kernel=3)
        self.conv3 = make_conv(config, channels, out_channels, kernel=3)
        self.bn1, self.bn2 = make_norm(config, channels), make_norm(config, channels)
        self.bn3 = make_norm(config, out_channels)
        self.downsample = make_shortcut(config, in_channels, out_channels, stride=stride)

    def residual(self, x):
        x = relu(self.bn1(self.conv1(x)))
        x = relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


class Grouped(BasicBlock):
    """A basic block whose second convolution is depthwise."""

    def __init__(self, config, in_channels, channels, *, stride):
        super().__init__(config, in_channels, channels, stride=stride)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=config.norm == "none")


class NarrowInside(BasicBlock):
    """A basic block with half of the channels inside."""

    def __init__(self, config, in_channels, channels, *, stride):
        super().__init__(config, in_channels, channels, stride=stride)
        self.conv1 = make_conv(config, in_channels, channels // 2, kernel=3, stride=stride)
        self.bn1 = make_norm(config, channels // 2)
        self.conv2 = make_conv(config, channels // 2, channels, kernel=3)


class OtherNames(Block):
    num_convs = 1
    expansion = 1

    def __init__(self, config, in_channels, channels, *, stride):
        super().__init__(config, in_channels, channels, stride=stride)
        self.first = make_conv(config, in_channels, channels, kernel=3, stride=stride)
        self.downsample = make_shortcut(config, in_channels, channels, stride=stride)

    def residual(self, x):
        return self.first(x)


@pytest.fixture(autouse=True)
def registered():
    """Register three blocks, and remove all but the built-in ones after the test."""
    built_in = set(BLOCKS)
    for name, block in {"triple": TripleConv, "grouped": Grouped, "narrow": NarrowInside}.items():
        register_block(name, block)
    yield
    for name in set(BLOCKS) - built_in:
        del BLOCKS[name], BLOCK_PROPERTIES[name]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=4, size=16):
    return torch.randn(count, 3, size, size, generator=generator(1))


def trained(name, **changes):
    """A network whose weights and running statistics are no longer the initial ones."""
    model = build_model(name, 10, generator=generator(), **changes)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(images()), torch.arange(4)).backward()
        optimizer.step()
    return model.eval()


def test_the_built_in_blocks_declare_what_the_configuration_uses():
    for name in set(BLOCKS) - {"triple", "grouped", "narrow"}:
        block, properties = BLOCKS[name], BLOCK_PROPERTIES[name]
        assert (block.num_convs, block.expansion) == (properties.num_convs, properties.expansion)
    assert list(BLOCKS) == list(BLOCK_PROPERTIES)


def test_the_public_name():
    assert resnetlab.register_block is register_block
    assert "register_block" in resnetlab.__all__


def test_depth_and_width_follow_from_the_block():
    config = model_config("resnet29", block="triple")
    assert (config.stage_blocks, config.depth, config.expansion) == ((3, 3, 3), 29, 2)
    model = build_model(config)
    assert model.feature_channels == {"stem": 16, "stage1": 32, "stage2": 64, "stage3": 128}
    assert model(images()).shape == (4, 10)
    assert from_json(ModelConfig, to_json(config)) == config
    with pytest.raises(ConfigError, match=r"depth 21 is not of the form 9n\+2; the nearest are 20 and 29"):
        model_config("resnet21", block="triple")


def test_a_model_file_stores_the_name(tmp_path):
    model = trained("resnet11", block="triple")
    path = tmp_path / "model.safetensors"
    save_model(path, model, ModelCard(model.config, tuple("abcdefghij"), Preprocessing(16, (0.5,) * 3, (0.25,) * 3)))
    with torch.no_grad():
        assert torch.equal(load_model(path)[0](images()), model(images()))
    del BLOCKS["triple"], BLOCK_PROPERTIES["triple"]
    with pytest.raises(ModelFileError, match=r"block 'triple' is unknown; choose one of: basic, .*register_block"):
        load_model(path)


@pytest.mark.parametrize("changes", [{}, {"shortcut": "project"}, {"shortcut": "project_all"}, {"norm": "none"}])
@pytest.mark.parametrize("block", ["triple", "grouped"])
def test_deepening_computes_the_same(block, changes):
    name = "resnet11" if block == "triple" else "resnet8"
    model = trained(name, block=block, **changes)
    deeper = deepen(model, (2, 2, 2), generator=generator(2))
    assert deeper.config.depth == model.config.depth + 3 * BLOCKS[block].num_convs
    assert max_difference(model, deeper, images()) == 0.0


def test_plain_networks_deepen_if_each_convolution_can_be_the_identity():
    model = trained("plain8", block="grouped")
    assert max_difference(model, deepen(model, 14), images()) == 0.0
    with pytest.raises(ConfigError, match="a plain triple cannot be the identity: it squeezes 2c channels through c"):
        deepen(build_model("plain11", block="triple"), 20)
    with pytest.raises(ConfigError, match="a convolution from 16 to 8 channels cannot be the identity"):
        deepen(build_model("plain8", block="narrow"), 14)


def test_layer_statistics_name_every_convolution():
    layers = conv_layers(build_model("resnet11", block="triple", shortcut="project"))
    names = [layer.name for layer in layers]
    assert names[:5] == ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.conv3", "layer1.0.downsample.0"]
    assert [layer.name for layer in layers if layer.last_of is not None] == [f"layer{i}.0.conv3" for i in (1, 2, 3)]
    assert all(layer.norm.num_features == layer.conv.out_channels for layer in layers)  # pyright: ignore


def test_cost_counts_grouped_convolutions():
    counted = {layer.name: layer for layer in cost(build_model("resnet8", block="grouped"), 32).layers}
    assert counted["layer1.0.conv2"].params == 16 * 9
    assert counted["layer1.0.conv2"].macs == 16 * 9 * 32 * 32


@pytest.mark.parametrize("block", ["triple", "grouped"])
def test_folded_batch_normalisation_computes_the_same(block):
    model = trained("resnet11" if block == "triple" else "resnet8", block=block).double()
    fused = fuse_bn(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    with torch.no_grad():
        torch.testing.assert_close(fused(images().double()), model(images().double()))


def test_zero_init_residual_starts_as_the_identity():
    model = build_model("resnet20", block="grouped", zero_init_residual=True).eval()
    maps = model.features(images())
    assert torch.equal(maps["stage1"], maps["stem"])


def test_activation_checkpointing_changes_nothing():
    model = build_model("resnet29", block="triple", generator=generator()).train()
    logits = model(images())
    model.activation_checkpointing = True
    assert torch.equal(model(images()), logits)
    assert [len(segment) for segment in checkpoint_segments(model.stages["stage1"])] == [1, 1, 1]


def test_the_models_command_lists_the_layers():
    code = (
        "import resnetlab, resnetlab.models.blocks as blocks\n"
        "from resnetlab.cli.main import main\n"
        "class Mine(blocks.BasicBlock):\n    pass\n"
        "resnetlab.register_block('mine', Mine)\n"
        "import resnetlab.models.zoo as zoo\n"
        "zoo.IMAGENET[10] = ('mine', (1, 1, 1, 1))\n"
        "main(['models', 'resnet10', '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = [layer["name"] for layer in json.loads(done.stdout)["layers"]]
    assert "layer4.0.conv2" in names


@pytest.mark.parametrize(
    ("name", "block", "message"),
    [
        ("basic", TripleConv, "block name 'basic' is taken by BasicBlock; choose another name"),
        ("triple", TripleConv, "block name 'triple' is taken by TripleConv"),
        ("", TripleConv, "a block needs a name of at least one letter, not ''"),
        ("new", nn.Conv2d, "block 'new' must be a subclass of resnetlab.Block, not <class"),
        ("new", TripleConv.residual, "block 'new' must be a subclass"),
        ("new", Block, "Block.num_convs must be an integer of at least 1, not None; declare it"),
        (
            "new",
            type("Half", (BasicBlock,), {"expansion": 0.5}),
            "Half.expansion must be an integer of at least 1, not 0",
        ),
        (
            "new",
            type("None_", (BasicBlock,), {"num_convs": 0}),
            "None_.num_convs must be an integer of at least 1, not 0",
        ),
    ],
)
def test_unsuitable_blocks_are_refused(name, block, message):
    with pytest.raises(ConfigError, match=message):
        register_block(name, block)
    assert "new" not in BLOCKS
    assert "new" not in BLOCK_PROPERTIES


def test_an_unknown_block_is_refused_with_the_known_ones():
    for make in (lambda: ModelConfig(block="wide"), lambda: build_model("resnet20", block="wide")):
        with pytest.raises(ConfigError, match=r"block 'wide' is unknown; choose one of: basic, bottleneck, .*, triple"):
            make()


def test_layers_of_other_names_are_reported():
    register_block("other", OtherNames)
    model = build_model("resnet8", block="other", stage_blocks=(1,), stage_channels=(8,))
    assert model(images()).shape == (4, 10)
    message = "OtherNames has no layer conv1, bn1; name its layers conv1 to conv1 and bn1 to bn1"
    with pytest.raises(ConfigError, match=message):
        conv_layers(model)
