"""Arms: the network of each, and the arm of a network configuration."""

import pytest

from resnetlab.config import ConfigError, RunConfig
from resnetlab.models.zoo import build_model
from resnetlab.study.arms import ARMS, MAX_UPDATE, arm_network, arm_of, arm_recipe, family_of, ordered_arms
from resnetlab.training.recipes import recipe


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("depth", [20, 56])
def test_arm_is_read_from_the_configuration(arm, depth):
    model = arm_network(arm, depth, norm="none", init_scale=0.5)
    assert (arm_of(RunConfig(model)), model.depth, model.norm, model.init_scale) == (arm, depth, "none", 0.5)


@pytest.mark.parametrize("arm", ARMS)
def test_a_control_arm_is_the_same_network_with_a_limit_on_its_steps(arm):
    digits = recipe("digits")
    model, limited = arm_network(f"{arm}-capped", 20), arm_recipe(f"{arm}-capped", digits)
    assert model == arm_network(arm, 20)
    assert arm_of(RunConfig(model, recipe=limited)) == f"{arm}-capped"
    assert limited.max_update == MAX_UPDATE
    assert arm_recipe(arm, digits) == digits


def test_a_control_arm_follows_its_arm():
    assert ordered_arms(["residual", "plain-capped", "A-capped", "plain"]) == [
        "plain",
        "plain-capped",
        "residual",
        "A-capped",
    ]


def test_parameter_counts_of_the_arms():
    """The options of Table 3 on 20 layers, counted by hand.

    A adds no parameters. B adds the 1x1 kernels and BN of two shortcuts, 16 x 32 + 64 and 32 x 64 + 128. C also adds a
    shortcut to each other block: 3 of 16 x 16 + 32, 2 of 32 x 32 + 64 and 2 of 64 x 64 + 128.
    """
    counts = {arm: sum(p.numel() for p in build_model(arm_network(arm, 20)).parameters()) for arm in ARMS}
    assert counts["plain"] == counts["residual"] == counts["A"]
    assert counts["B"] - counts["A"] == 576 + 2176
    assert counts["C"] - counts["B"] == 3 * 288 + 2 * 1088 + 2 * 4224
    assert arm_network("bottleneck", 20).block == "bottleneck"


@pytest.mark.parametrize(
    ("arm", "depth", "message"),
    [
        ("plane", 20, "arm 'plane' is unknown; known: plain, residual, A, B, C, bottleneck"),
        ("plain", 57, "depth 57 is not of the form 6n\\+2; the nearest are 56 and 62"),
        ("bottleneck", 32, "arm bottleneck: depth 32 is not of the form 9n\\+2; the nearest are 29 and 38"),
        ("plain", 34, "the nearest are 32 and 38; or use the family imagenet, which has 34 layers"),
    ],
)
def test_invalid_arm_or_depth(arm, depth, message):
    with pytest.raises(ConfigError, match=message):
        arm_network(arm, depth)


@pytest.mark.parametrize(
    ("arm", "depth", "message"),
    [
        ("plain", 20, "the family imagenet has networks of 18, 34, 50, 101, 152 layers, not 20"),
        ("bottleneck", 50, "in the family imagenet the depth decides; from 50 layers on use residual"),
    ],
)
def test_invalid_imagenet_network(arm, depth, message):
    with pytest.raises(ConfigError, match=message):
        arm_network(arm, depth, family="imagenet")


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "bottleneck"])
@pytest.mark.parametrize("depth", [18, 34])
def test_arm_of_an_imagenet_network(arm, depth):
    model = arm_network(arm, depth, family="imagenet")
    assert (arm_of(RunConfig(model)), model.depth, model.stem) == (arm, depth, "imagenet")
    assert family_of(model) == "imagenet"


def test_deep_imagenet_networks_have_bottlenecks():
    model = arm_network("residual", 50, family="imagenet")
    assert (model.name, model.block, model.shortcut) == ("resnet50", "bottleneck", "pad")
    assert arm_of(RunConfig(model)) == "residual"
    assert arm_network("residual", 50).name == "resnet50-cifar"


def test_plain_and_residual_imagenet_networks_have_as_many_parameters():
    counts = {
        arm: sum(p.numel() for p in build_model(arm_network(arm, 18, family="imagenet")).parameters())
        for arm in ("plain", "residual", "B")
    }
    assert counts["plain"] == counts["residual"] < counts["B"]
