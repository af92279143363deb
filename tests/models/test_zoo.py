"""Named networks: what the names mean, and errors for wrong ones."""

import dataclasses
from typing import Any

import pytest
import torch

from resnetlab.config import BLOCK_PROPERTIES, ConfigError, ModelConfig, block_properties
from resnetlab.evaluation.self_check.wirings import wirings_of
from resnetlab.models.zoo import CATALOGUE, build_model, find_name, model_config, size_warning


@pytest.mark.parametrize("name", CATALOGUE)
def test_names_give_family_and_depth(name):
    config = model_config(name)
    family, depth = (
        name[:5] if name.startswith("plain") else name[:6],
        int("".join(c for c in name.split("-")[0] if c.isdigit())),
    )
    assert config.depth == depth
    assert config.arm == ("plain" if family == "plain" else "residual")
    assert config.stem == ("imagenet" if depth in (18, 34, 50, 101, 152) else "cifar")


def test_defaults_of_named_networks():
    assert model_config("resnet34").shortcut == "project"
    assert model_config("resnet56").shortcut == "pad"
    assert model_config("resnet50").bottleneck_stride == "3x3"
    assert model_config("resnet50-v1").bottleneck_stride == "1x1"
    assert model_config("resnet50-cifar").stem == "cifar"
    assert model_config("resnet50-cifar").stage_blocks == (8, 8, 8)
    assert (model_config("resnet18").num_classes, model_config("resnet20").num_classes) == (1000, 10)


def test_a_generator_leaves_the_global_one_unchanged():
    before = torch.get_rng_state()
    build_model("resnet8", generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    build_model("resnet8")
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("depth", [18, 34, 50])
@pytest.mark.parametrize("block", [name for name in BLOCK_PROPERTIES if name not in ("basic", "bottleneck")])
def test_the_name_of_a_block_is_the_option(depth, block):
    expected = model_config(f"resnet{depth}").block
    if block_properties(block).num_convs != block_properties(expected).num_convs:
        return
    named, chosen = model_config(f"resnet{depth}-{block}"), model_config(f"resnet{depth}", block=block)
    assert dataclasses.replace(named, name="") == dataclasses.replace(chosen, name="")
    assert find_name(chosen) == f"resnet{depth}-{block}"


def test_option_a_drops_no_channels():
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"stage_channels": (64, 32)}, "from 64 to 32"),
        ({"stage_channels": (16, 32), "stem_channels": 64}, "from 64 to 16"),
        ({"stage_channels": (16, 8), "block": "bottleneck", "stem_channels": 64}, "from 64 to 32"),
    )
    for changes, fall in cases:
        with pytest.raises(ConfigError, match=rf"option A\) adds channels and drops none.* {fall}; use shortcut="):
            ModelConfig(stage_blocks=(1, 1), shortcut="pad", **changes)
        for shortcut in ("project", "project_all", "none"):
            config = ModelConfig(stage_blocks=(1, 1), shortcut=shortcut, **changes)
            assert {wiring.shortcut for wiring in wirings_of(config)} == {shortcut}
    ModelConfig(stage_blocks=(1, 1), stage_channels=(16, 16), block="bottleneck", shortcut="pad", stem_channels=64)


def test_bottleneck_depths_are_9n_plus_2():
    config = model_config("resnet164", block="bottleneck")
    assert (config.stage_blocks, config.depth) == ((18, 18, 18), 164)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("resnet57", {}, "depth 57 is not of the form 6n\\+2; the nearest are 56 and 62"),
        ("plain9", {}, "nearest are 8 and 14"),
        ("resnet2", {}, "depth 2 is not of the form 6n\\+2; the nearest is 8"),
        ("resnet18-cifar", {}, "nearest are 14 and 20"),
        ("resnet21", {"block": "bottleneck"}, "9n\\+2; the nearest are 20 and 29"),
        ("resnet", {}, "model 'resnet' is unknown; use a name such as resnet18"),
        ("vgg16", {}, "model 'vgg16' is unknown"),
        ("resnet34-v1", {}, "has no bottlenecks; use -v1 with 50, 101 or 152 layers"),
        ("resnet18", {"shortcuts": "pad"}, "ModelConfig has no field 'shortcuts'; it has: name, stage_blocks"),
        ("resnet18", {"shortcut": "A"}, "shortcut 'A' is unknown; choose one of"),
    ],
)
def test_wrong_names_and_fields_are_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, **changes)


def test_any_field_can_be_changed():
    model = build_model("resnet18", num_classes=37, shortcut="pad", in_channels=1)
    assert (model.fc.out_features, model.conv1.in_channels) == (37, 1)
    assert build_model(ModelConfig(stage_blocks=(1,), stage_channels=(8,)), num_classes=2).fc.out_features == 2


def test_config_error_is_a_value_error():
    assert issubclass(ConfigError, ValueError)


def test_warning_about_small_images():
    warning = size_warning(model_config("resnet18"), 32)
    assert warning is not None
    assert "use a 6n+2 network such as resnet20" in warning
    assert "map of 1x1" in warning
    assert size_warning(model_config("resnet18"), 224) is None
    assert size_warning(model_config("resnet20"), 32) is None
