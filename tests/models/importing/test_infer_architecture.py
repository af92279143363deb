"""Inference of the architecture from keys and shapes, without torch, from structure more than from names."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from helpers import public_resnets, rare_resnets
from resnetlab.models.importing.assumptions import AssumptionOverrides, apply_overrides
from resnetlab.models.importing.infer_architecture import infer_architecture, with_zoo_name
from resnetlab.models.importing.residual_branch import analyse_block
from resnetlab.models.importing.state_dict_layers import find_blocks, layers_of, natural_sort_key
from resnetlab.models.importing.unsupported import UnsupportedError
from resnetlab.models.zoo import CATALOGUE, build_model, model_config


def shapes_of(net):
    return {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}


def inferred(shapes, **overrides):
    return apply_overrides(infer_architecture(shapes, in_order=True).config, AssumptionOverrides(**overrides))


NAMES = [name for name in CATALOGUE if "1202" not in name] + ["resnet50-cifar", "resnet164", "plain8"]


@pytest.mark.parametrize("name", NAMES)
def test_every_network_of_the_catalogue(name):
    config = model_config(name, block="bottleneck") if name == "resnet164" else model_config(name)
    with torch.device("meta"):
        shapes = shapes_of(build_model(config))
    overrides = {}
    if config.shortcut == "none":
        overrides["shortcut"] = "none"
    if config.block == "bottleneck":
        overrides["bottleneck_stride"] = config.bottleneck_stride
    assert inferred(shapes, **overrides) == config
    mixed = dict(sorted(shapes.items()))  # as safetensors stores them: layer3.10 before layer3.2
    found = infer_architecture(mixed, in_order=False)
    assert apply_overrides(found.config, AssumptionOverrides(**overrides)) == config
    assert all(key == file_key for key, file_key in found.keys.items())
    assert set(found.keys) == set(shapes)
    assert found.unused_keys == ()


def test_widths_classes_channels_and_shortcuts_are_inferred():
    for change in [
        {"num_classes": 37, "in_channels": 1},
        {"shortcut": "project_all"},
        {"shortcut": "project"},
        {"norm": "none"},
        {"stage_channels": (24, 48, 96)},
        {"stage_channels": (16, 16, 16)},
        {"stage_blocks": (1, 4, 2)},
        {"block": "bottleneck", "shortcut": "pad"},
        {"block": "bottleneck", "shortcut": "project_all", "norm": "none"},
        {"stem": "imagenet"},
        {"stage_blocks": (2,), "stage_channels": (16,)},
    ]:
        config = with_zoo_name(model_config("resnet20", **{"block": "basic", **change}))
        assert inferred(shapes_of(build_model(config))) == config, change


def test_only_catalogue_networks_get_a_catalogue_name():
    for name, fields in [
        ("resnet20", {"stage_channels": (24, 48, 96)}),
        ("resnet18", {"stem": "cifar"}),
        ("resnet20", {"stage_blocks": (2, 3, 4)}),
    ]:
        assert inferred(shapes_of(build_model(name, **fields))).name == "custom"
    assert inferred(shapes_of(build_model("resnet20", shortcut="project"))).name == "resnet20"


def test_natural_sort():
    names = ["layer10.0", "layer2.10.conv1", "layer2.9.conv2", "layer2.9.conv1", "conv1", "a"]
    assert sorted(names, key=natural_sort_key) == [
        "a",
        "conv1",
        "layer2.9.conv1",
        "layer2.9.conv2",
        "layer2.10.conv1",
        "layer10.0",
    ]


def test_the_kind_of_a_layer_follows_from_its_tensors():
    shapes = {"a.weight": (3, 2, 3, 3), "b.weight": (3,), "b.bias": (3,), "b.running_mean": (3,), "b.running_var": (3,)}
    shapes |= {
        "c.weight": (5, 3),
        "d.weight": (3,),
        "a.total_ops": (1,),
        "e.lora_A": (2, 2),
        "f.weight": (2, 2, 1, 1, 1),
    }
    kinds = {layer.name: layer.kind for layer in layers_of(shapes, in_order=True)}
    assert kinds == {"a": "conv", "b": "norm", "c": "linear", "d": "other", "e": "other", "f": "other"}


def test_blocks_are_the_innermost_numbered_modules_of_two_convolutions():
    for net, names in [
        (rare_resnets.HuggingFace(), ["resnet.encoder.stages.0.layers.0", "resnet.encoder.stages.0.layers.1"]),
        (public_resnets.Weiaicunzai(), ["conv2_x.0", "conv2_x.1"]),
        (rare_resnets.D2L(), ["net.3", "net.4"]),
    ]:
        found = find_blocks(layers_of(shapes_of(net), in_order=True))
        assert list(found.blocks)[:2] == names
        assert len([layer for layer in found.outside if layer.kind == "conv"]) == 1


def test_shapes_take_precedence_over_the_order_of_names():
    block = {"b.0.conv_1x1_a.weight": (4, 16, 1, 1), "b.0.conv_1x1_c.weight": (16, 4, 1, 1)}
    block |= {"b.0.conv_3x3_b.weight": (4, 4, 3, 3)}
    found = analyse_block("b.0", layers_of(block, in_order=True), in_order=True)
    assert [pair.conv.name[-1] for pair in found.branch] == ["a", "b", "c"]


def without_counts(net):
    return {key: shape for key, shape in shapes_of(net).items() if shape != ()}


@pytest.fixture(scope="module")
def basic():
    return without_counts(public_resnets.Torchvision())


@pytest.fixture(scope="module")
def deep():
    return without_counts(public_resnets.Torchvision(bottleneck=True))


def assert_refused(shapes, *fragments):
    for in_order in (True, False):
        with pytest.raises(UnsupportedError) as error:
            infer_architecture(shapes, in_order=in_order)
        for fragment in fragments:
            assert fragment in str(error.value)


def test_other_proportions_of_bottlenecks_are_refused(deep):
    grouped = {key: (s[0], s[1] // 4, 3, 3) if key.endswith("1.0.conv2.weight") else s for key, s in deep.items()}
    assert_refused(grouped, "with different numbers of groups", "layer1.1 has 1, and layer1.0 4")
    first = {key: (s[0], s[1] // 2, 1, 1) if key.endswith("conv3.weight") else s for key, s in deep.items()}
    assert_refused(first, "a ResNet with groups in other convolutions", "layer1.0.conv3 is in 2 groups")
    wide = {}
    for key, (width, *rest) in deep.items():
        inner = key.startswith("layer1") and any(part in key for part in (".conv1.", ".bn1.", ".conv2.", ".bn2."))
        reads = key.startswith("layer1") and (".conv2." in key or ".conv3." in key)
        wide[key] = (width * 2 if inner else width, *([rest[0] * 2, *rest[1:]] if reads else rest))
    assert_refused(wide, "other proportions", "layer2.0 has 16 channels inside, and by the proportions of layer1.0")


def test_other_stems_are_refused(basic):
    bare = {key: shape for key, shape in basic.items() if key != "conv1.weight"}
    three = {"conv1.0.weight": (6, 3, 3, 3), "conv1.3.weight": (8, 6, 3, 3), "conv1.6.weight": (8, 8, 3, 3)}
    assert_refused(bare | three, "a deep stem of other widths than ResNet-C's", "3 convolutions (3x3, 3x3, 3x3)")
    half = {"conv1.0.weight": (4, 3, 3, 3), "conv1.3.weight": (4, 4, 3, 3), "conv1.6.weight": (8, 4, 3, 3)}
    assert_refused(bare | half, "with other batch normalisation in its deep stem", "it has bn1")
    assert_refused(basic | {"conv1.weight": (8, 3, 4, 4)}, "another stem", "its first convolution is 4x4")
    assert_refused(bare, "another stem", "no convolution stands before")
    assert_refused(basic | {"conv1.weight": (6, 3, 7, 7)}, "another stem")


def test_other_layers_in_blocks_are_refused(basic):
    for name in ("se.fc1", "se.0", "se_module.fc2", "attn.fc"):
        assert_refused(basic | {f"layer1.0.{name}.weight": (2, 8)}, "squeeze-and-excitation or another attention")
    assert_refused(basic | {"layer1.0.se.fc1.weight": (2, 8, 1, 1)}, "squeeze-and-excitation or another attention")
    assert_refused(basic | {"layer1.0.bias1a": (1,)}, "more in its blocks", "layer1.0 has bias1a")
    group = {key: shape for key, shape in basic.items() if "running" not in key}
    assert_refused(group, "group, layer or instance normalisation", "layer1.0.bn1 has a scale, but no running_mean")


class PreActivation(nn.Module):
    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, planes, 1, stride, bias=False))


def test_pre_activation_is_refused():
    net = nn.Module()
    net.conv1 = nn.Conv2d(3, 8, 3, bias=False)
    net.layer1 = nn.Sequential(PreActivation(8, 8, 1), PreActivation(8, 8, 1))
    net.layer2 = nn.Sequential(PreActivation(8, 16, 2), PreActivation(16, 16, 1))
    net.linear = nn.Linear(16, 10)
    assert_refused(shapes_of(net), "with pre-activation (He et al. 2016, Identity Mappings), which is not supported")
    net.bn = nn.BatchNorm2d(16)
    assert_refused(shapes_of(net), "pre-activation")


def test_other_shortcuts_are_refused(basic):
    pooled = {
        key.replace("downsample.1", "downsample.2").replace("downsample.0", "downsample.1"): shape
        for key, shape in basic.items()
    }
    some = pooled | {key: shape for key, shape in basic.items() if key.startswith("layer3")}
    some = {key: shape for key, shape in some.items() if "layer3.0.downsample.2" not in key}
    assert_refused(some, "with modules without weights in its shortcuts", "layer2.0.downsample.1 is not the first")
    renamed = {key.replace("downsample", "shortcut"): shape for key, shape in pooled.items()}
    assert_refused(renamed, "supported are timm's names of ResNet-D")
    assert_refused(
        {k: s for k, s in basic.items() if not k.startswith("layer3.0.downsample")}, "neither option A, B nor C"
    )
    assert_refused(basic | {"layer2.0.downsample.0.weight": (16, 8, 3, 3)}, "other shortcuts", "(3x3)")


def test_other_heads_are_refused(basic):
    headless = {key: shape for key, shape in basic.items() if not key.startswith("fc.")}
    assert_refused(headless, "without a head of one linear layer", "it has none")
    two = headless | {"fc.0.weight": (32, 64), "fc.2.weight": (5, 32)}
    assert_refused(two, "without a head of one linear layer", "2 linear layers: fc.0, fc.2")
    assert_refused(basic | {"fc.weight": (5, 64 * 49)}, "reads 3136 numbers, and the last stage has 64 output channels")


def test_parameters_outside_the_blocks_are_refused(basic):
    """Without them, the network would compute another function."""
    more = "with more outside its blocks, which is not supported: it has"
    assert_refused(basic | {"temperature": ()}, f"{more} temperature; if no prediction uses them")
    assert_refused(basic | {"gem.p": (1,)}, f"{more} gem.p")
    assert_refused(basic | {"norm.weight": (64,), "norm.bias": (64,)}, f"{more} norm.weight, norm.bias")
    assert_refused(basic | {"act.weight": (8,)}, more)
    assert_refused(
        basic | {"scales": (4,), "class_bias": (5,), "a": (1,), "b": (1,)}, "scales, class_bias, a and 1 more"
    )
    harmless = {"criterion.weight": (5,), "val_metrics.total": (), "global_step": (), "n_averaged": ()}
    found = infer_architecture(basic | harmless, in_order=True)
    assert found.unused_keys == ("criterion.weight", "val_metrics.total", "global_step")


def test_a_network_that_normalises_its_images_is_refused_with_a_remedy(basic):
    for shape in ((3,), (1, 3, 1, 1)):
        buffers = {"mean": shape, "std": shape}
        assert_refused(
            basic | buffers, "normalises its images itself", "it has mean, std; save the state_dict() without them"
        )
    assert_refused(basic | {"pixel_mean": (3, 1, 1)}, "it has pixel_mean", "as --mean and --std")
    assert_refused(basic | {"mean": (64,)}, "more outside its blocks", "it has mean")


def test_other_families_are_refused():
    def chain(*convs):
        return {f"features.{i}.weight": shape for i, shape in enumerate(convs)}

    vgg = chain((64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3)) | {"classifier.0.weight": (9, 9)}
    assert_refused(vgg, "a chain of 3 convolutions and 1 linear layers", "as in a VGG")
    layer = {f"blocks.{i}.{name}.weight": (8, 8) for i in range(4) for name in ("attn.qkv", "mlp.fc1", "mlp.fc2")}
    assert_refused(layer | {"patch_embed.proj.weight": (8, 3, 16, 16)}, "a transformer")
    dense = {f"features.denseblock1.denselayer{i}.conv{j}.weight": (8, 8, 3, 3) for i in (1, 2) for j in (1, 2)}
    assert_refused(dense, "a DenseNet")
    mobile = {f"features.{i}.conv.{j}.weight": s for i in range(3) for j, s in enumerate([(8, 4, 1, 1), (8, 1, 3, 3)])}
    assert_refused(mobile, "depthwise convolutions")
    assert_refused({"a.weight": (3,), "b": (2, 2)}, "no convolution")
    assert_refused({"fc.weight": (2, 2)}, "no convolution")
    assert_refused({"weight": (3, 3, 3, 3)}, "a chain of 1 convolutions")


def test_two_networks_in_one_file_are_refused(basic):
    both = {f"{name}.{key}": shape for name in ("encoder_q", "encoder_k") for key, shape in basic.items()}
    assert_refused(both, "2 networks in one file (encoder_", "save one of them alone")
    assert_refused({f"module.{key}": shape for key, shape in both.items()}, "2 networks in one file")


def test_blocks_that_do_not_fit_together_are_refused(basic):
    assert_refused(basic | {"layer2.0.conv1.weight": (16, 12, 3, 3)}, "12")
    assert_refused(
        basic | {"layer2.0.bn2.running_mean": (9,), "layer2.0.bn2.weight": (9,)}, "layer2.0.bn2 has 9 channels"
    )
    assert_refused(basic | {"layer1.0.conv3.weight": (8, 8, 5, 5)}, "layer1.0 has convolutions of 3x3, 3x3, 5x5")
    assert_refused(
        {k: s for k, s in basic.items() if not k.startswith("layer1.0.bn2")},
        "1 batch normalisations for 2 convolutions",
    )


def test_torch_is_not_loaded():
    code = (
        "import sys, resnetlab.models.importing.infer_architecture, resnetlab.models.importing.assumptions; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
