"""Networks of later papers: sizes against published figures, names, and their forward passes against references."""

import pytest
import torch
import torch.nn.functional as F

from helpers.public_resnets import Torchvision, randomise
from resnetlab.config import ConfigError, ModelConfig
from resnetlab.literature.later_networks import LATER_NETWORK_SIZES
from resnetlab.models.cost import cost_of_config
from resnetlab.models.deepen import deeper_config
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import LATER_NETWORKS, build_model, find_name, model_config
from resnetlab.serialization import from_json, to_json


@pytest.mark.parametrize("name", LATER_NETWORK_SIZES)
def test_published_sizes(name):
    """torchvision prints every parameter and MACs with three decimals; the papers print two or three figures."""
    config, published = model_config(name), LATER_NETWORK_SIZES[name]
    size = cost_of_config(config, 32 if config.stem == "cifar" else 224)
    with torch.device("meta"):
        assert size.params == sum(p.numel() for p in ResNet(config).parameters())
    if published.params is not None:
        assert size.params == published.params or f"{size.params / 1e6:.1f}" == f"{published.params / 1e6:.1f}"
    if published.macs is not None:
        digits = 3 if "torchvision" in published.source else 1
        assert f"{size.macs / 1e9:.{digits}f}" == f"{published.macs / 1e9:.{digits}f}"


def test_exact_parameters():
    """torchvision/models/resnet.py, num_params; szagoruyko/wide-residual-networks prints 36479194."""
    counts = {
        "wide_resnet50_2": 68_883_240,
        "wide_resnet101_2": 126_886_696,
        "resnext50_32x4d": 25_028_904,
        "resnext101_32x8d": 88_791_336,
        "wrn28-10": 36_479_194,
    }
    with torch.device("meta"):
        assert {name: sum(p.numel() for p in build_model(name).parameters()) for name in counts} == counts


@pytest.mark.parametrize("name", LATER_NETWORKS)
def test_names(name):
    config = model_config(name, num_classes=7)
    assert (config.name, find_name(config)) == (name, name)
    assert from_json(ModelConfig, to_json(config)) == config


def test_networks_of_the_paper_are_stored_as_before():
    """New fields are written where they differ from their defaults only."""
    stored = to_json(model_config("resnet50"))
    assert stored.keys().isdisjoint({"stem_channels", "groups", "width_per_group", "average_shortcut"})
    assert to_json(model_config("resnext50_32x4d"))["groups"] == 32


def test_torchvision_keys():
    """The keys and shapes of torchvision's resnext50_32x4d that differ from resnet50's."""
    with torch.device("meta"):
        state = build_model("resnext50_32x4d").state_dict()
        assert state.keys() == build_model("resnet50").state_dict().keys()
    assert state["layer1.0.conv1.weight"].shape == (128, 64, 1, 1)
    assert state["layer1.0.conv2.weight"].shape == (128, 4, 3, 3)
    assert state["layer4.2.conv2.weight"].shape == (1024, 32, 3, 3)
    assert state["layer4.2.conv3.weight"].shape == (2048, 1024, 1, 1)


def test_a_wide_network_is_a_torchvision_bottleneck_with_twice_the_inner_channels():
    """The same forward pass as the reference, whose 3x3 convolutions are replaced by wider ones in four groups."""
    reference = Torchvision((1, 2), bottleneck=True)
    for inner, stage in ((8, reference.layer1), (16, reference.layer2)):
        for block in stage:
            first, last = block.conv1, block.conv3
            block.conv1 = torch.nn.Conv2d(first.in_channels, 4 * inner, 1, bias=False)
            block.conv2 = torch.nn.Conv2d(4 * inner, 4 * inner, 3, block.conv2.stride, 1, groups=4, bias=False)
            block.conv3 = torch.nn.Conv2d(4 * inner, last.out_channels, 1, bias=False)
            block.bn1, block.bn2 = torch.nn.BatchNorm2d(4 * inner), torch.nn.BatchNorm2d(4 * inner)
    reference.layer3 = reference.layer4 = torch.nn.Identity()
    randomise(reference)
    changes = {"stage_blocks": (1, 2), "stage_channels": (8, 16), "num_classes": 5, "groups": 4}
    model = build_model("resnet50", **changes)
    model.load_state_dict(reference.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), reference(images))


def test_the_deep_stem_and_the_averaging_shortcut():
    """ResNet-D, computed with functions from its weights; 15 positions a side, so that squares cross the border."""
    model = build_model(
        "resnet50d", stage_blocks=(1, 1), stage_channels=(8, 16), num_classes=3, bottleneck_stride="3x3"
    )
    randomise(model)
    state, images = model.state_dict(), torch.randn(2, 3, 60, 60, generator=torch.Generator().manual_seed(0))

    def conv_bn(conv, bn, x, stride=1):
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, scale, shift = (state[f"{bn}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, scale, shift)

    x = F.relu(conv_bn("conv1.0", "conv1.1", images, 2))
    x = F.relu(conv_bn("conv1.3", "conv1.4", x))
    x = F.max_pool2d(F.relu(conv_bn("conv1.6", "bn1", x)), 3, 2, 1)
    for block, stride in (("layer1.0", 1), ("layer2.0", 2)):
        out = F.relu(conv_bn(f"{block}.conv1", f"{block}.bn1", x))
        out = F.relu(conv_bn(f"{block}.conv2", f"{block}.bn2", out, stride))
        out = conv_bn(f"{block}.conv3", f"{block}.bn3", out)
        pooled = x if stride == 1 else torch.nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)(x)
        x = F.relu(out + conv_bn(f"{block}.downsample.0", f"{block}.downsample.1", pooled))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"]))
    assert model.feature_strides == {"stem": 4, "stage1": 4, "stage2": 8}


def test_a_deep_stem_counts_its_layers():
    assert model_config("resnet50d").depth == 52
    assert model_config("wrn28-10").depth == 26  # 28 with the three projections


def test_names_of_deepened_networks():
    assert deeper_config(model_config("resnext50_32x4d"), (3, 4, 23, 3)).name == "custom"
    assert deeper_config(model_config("wide_resnet50_2"), (3, 4, 23, 3)).name == "wide_resnet101_2"
    assert deeper_config(model_config("wrn16-8"), (4, 4, 4)).name == "wrn28-8"
    assert deeper_config(model_config("resnet50d"), (3, 4, 23, 3)).name == "resnet101d"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "resnet18",
            {"groups": 2},
            "groups and width_per_group need bottlenecks, and this network has blocks of the kind",
        ),
        ("resnet50", {"groups": 0}, "groups must be at least 1, not 0"),
        ("resnet20", {"average_shortcut": True}, "average_shortcut averages in front of projections"),
        (
            "resnet50",
            {"stage_channels": (8, 16, 32, 64), "width_per_group": 4},
            "stage_channels 8 .* must be at least 1",
        ),
        ("resnet18", {"stem": "deep", "stem_channels": 33}, "the deep stem has half of its 33 channels in two layers"),
        ("wrn27-10", {}, "a wide network has 6n.4 layers and a width of at least 1, such as wrn22-10"),
    ],
)
def test_errors(name, changes, message):
    with pytest.raises(ConfigError, match=message):
        model_config(name, **changes)
