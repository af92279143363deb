"""Blocks that order BN, ReLU and the addition differently, against formulas written out here."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnetlab.config import ConfigError
from resnetlab.models.deepen import deepen, max_difference
from resnetlab.models.zoo import build_model, model_config


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(name, **changes):
    """A small network in fp64 whose BN has other statistics, scales and shifts than at the start."""
    model = build_model(name, generator=generator(), **changes).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator(1))
            nn.init.normal_(module.bias, 0, 0.3, generator=generator(2))
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3, generator=generator(3))
            module.running_var.uniform_(0.5, 2, generator=generator(4))
    return model


IMAGES = torch.randn(3, 3, 16, 16, generator=generator(9)).double()


def norm(state, key, x):
    return F.batch_norm(x, state[f"{key}.running_mean"], state[f"{key}.running_var"], state[f"{key}.weight"],
                        state[f"{key}.bias"], training=False, eps=1e-5)  # fmt: skip


def conv(state, key, x, stride=1):
    weight = state[f"{key}.weight"]
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)


def option_a(x, channels):
    """The identity; half the side and zero channels where a stage begins."""
    if x.shape[1] == channels:
        return x
    x = x[:, :, ::2, ::2]
    return torch.cat([x, x.new_zeros(len(x), channels - x.shape[1], *x.shape[2:])], dim=1)


def run(state, images, block):
    """Compute a network of three stages of two blocks; `block(key, x, stride, first)` computes one."""
    x = F.relu(norm(state, "bn1", conv(state, "conv1", images)))
    for stage in (1, 2, 3):
        for position in (0, 1):
            key, stride = f"layer{stage}.{position}", 2 if stage > 1 and position == 0 else 1
            x = block(key, x, stride, (stage, position) == (1, 0))
    if "final_bn.weight" in state:
        x = F.relu(norm(state, "final_bn", x))
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def assert_equal(model, block):
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), run(model.state_dict(), IMAGES, block), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shortcut", ["pad", "project", "none"])
def test_preactivation(shortcut):
    """He et al. (2016), Figure 4 (e): BN, ReLU, weight, BN, ReLU, weight, addition."""
    model = network("resnet14-preact", shortcut=shortcut)
    state = model.state_dict()

    def block(key, x, stride, first):
        a = x if first else F.relu(norm(state, f"{key}.bn0", x))
        f = conv(state, f"{key}.conv2", F.relu(norm(state, f"{key}.bn1", conv(state, f"{key}.conv1", a, stride))))
        if shortcut == "none":
            return f
        if f"{key}.downsample.0.weight" in state:
            return f + conv(state, f"{key}.downsample.0", a, stride)
        return f + (x if stride == 1 else option_a(a, f.shape[1]))

    assert_equal(model, block)


def test_the_bottleneck_of_preactivation():
    model = network("resnet20-preact-bottleneck", shortcut="project")
    state = model.state_dict()

    def block(key, x, stride, first):
        a = x if first else F.relu(norm(state, f"{key}.bn0", x))
        f = F.relu(norm(state, f"{key}.bn1", conv(state, f"{key}.conv1", a)))
        f = F.relu(norm(state, f"{key}.bn2", conv(state, f"{key}.conv2", f, stride)))
        f = conv(state, f"{key}.conv3", f)
        return f + (conv(state, f"{key}.downsample.0", a, stride) if f"{key}.downsample.0.weight" in state else x)

    assert_equal(model, block)


@pytest.mark.parametrize("shortcut", ["pad", "none"])
def test_no_last_relu(shortcut):
    model = network("resnet14-no-last-relu", shortcut=shortcut)
    state = model.state_dict()

    def block(key, x, stride, first):
        f = F.relu(norm(state, f"{key}.bn1", conv(state, f"{key}.conv1", x, stride)))
        f = norm(state, f"{key}.bn2", conv(state, f"{key}.conv2", f))
        return f if shortcut == "none" else f + option_a(x, f.shape[1])

    assert_equal(model, block)


@pytest.mark.parametrize("shortcut", ["pad", "none"])
def test_bn_after_addition(shortcut):
    """He et al. (2016), Figure 4 (b): weight, BN, ReLU, weight, addition, BN, ReLU."""
    model = network("resnet14-bn-after-addition", shortcut=shortcut)
    state = model.state_dict()

    def block(key, x, stride, first):
        f = F.relu(norm(state, f"{key}.bn1", conv(state, f"{key}.conv1", x, stride)))
        f = conv(state, f"{key}.conv2", f)
        return F.relu(norm(state, f"{key}.bn_sum", f if shortcut == "none" else f + option_a(x, f.shape[1])))

    assert_equal(model, block)


@pytest.mark.parametrize("name", ["resnet20-no-last-relu", "resnet20-bn-after-addition"])
def test_the_same_parameters_as_the_basic_block(name):
    count = sum(p.numel() for p in build_model(name).parameters())
    assert count == sum(p.numel() for p in build_model("resnet20").parameters())


@pytest.mark.parametrize("block", ["preact", "no-last-relu", "bn-after-addition"])
def test_plain_and_residual_share_their_initial_weights(block):
    """All kernels are those of the network with basic blocks, too."""
    basic, plain, residual, projecting = (
        build_model(name, generator=generator(), shortcut=shortcut).state_dict()
        for name, shortcut in [
            ("resnet14", "pad"),
            (f"plain14-{block}", "none"),
            (f"resnet14-{block}", "pad"),
            (f"resnet14-{block}", "project"),
        ]
    )
    assert plain.keys() == residual.keys()
    for state in (plain, residual, projecting):
        kernels = [key for key in basic if "conv" in key or key.startswith("fc")]
        assert all(torch.equal(state[key], basic[key]) for key in kernels)


@pytest.mark.parametrize("norm_kind", ["batch", "none"])
@pytest.mark.parametrize("shortcut", ["pad", "project"])
@pytest.mark.parametrize("block", ["preact", "no-last-relu", "bn-after-addition"])
def test_deepening_computes_the_same(block, shortcut, norm_kind):
    model = build_model(f"resnet8-{block}", shortcut=shortcut, norm=norm_kind, generator=generator()).eval()
    images = IMAGES.float()
    deeper = deepen(model, 14, images=images, generator=generator(5))
    assert deeper.config.name == f"resnet14-{block}"
    tolerance = 1e-5 if block == "bn-after-addition" and norm_kind == "batch" else 0.0
    assert max_difference(model, deeper, images) <= tolerance
    with torch.no_grad():
        torch.testing.assert_close(model.train()(images), deeper.train()(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("plain8-preact", {}, "a plain preact block cannot be the identity: it rectifies its input"),
        ("resnet8-preact", {"shortcut": "project_all"}, "a preact block cannot be the identity: it rectifies"),
        ("plain8-no-last-relu", {}, "a plain no-last-relu block cannot be the identity: the ReLU inside it cuts"),
    ],
)
def test_deepening_is_refused_with_the_reason(name, changes, reason):
    with pytest.raises(ConfigError, match=reason):
        deepen(build_model(name, **changes), 14)


def test_names_of_networks_with_other_blocks():
    config = model_config("resnet56-preact")
    assert (config.block, config.depth, config.shortcut) == ("preact", 56, "pad")
    assert model_config("plain20-preact").shortcut == "none"
    assert model_config("resnet164-preact-bottleneck").stage_blocks == (18, 18, 18)
    assert model_config("resnet50-preact").block == "preact-bottleneck"
    assert model_config("resnet50-v1-preact").bottleneck_stride == "1x1"
    assert model_config("resnet18-no-last-relu").stem == "imagenet"
    with pytest.raises(ConfigError, match="block no-last-relu has no form with 3 convolutions like the bottleneck"):
        model_config("resnet50-no-last-relu")
    with pytest.raises(ConfigError, match="the blocks are basic, bottleneck, preact"):
        model_config("resnet20-preakt")
