"""The networks, compared with direct computation and with the paper's description."""

import pytest
import torch
import torch.nn.functional as F

from resnetlab.config import ModelConfig
from resnetlab.models.blocks import BasicBlock, Bottleneck
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import build_model


def seeded(name, seed=0, **changes):
    return build_model(name, generator=torch.Generator().manual_seed(seed), **changes)


def batch_norm(x, bn):
    """Normalise with the statistics of the batch, written out."""
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    shape = (1, -1, 1, 1)
    return (x - mean) / (var + bn.eps).sqrt() * bn.weight.view(shape) + bn.bias.view(shape)


def config(**changes):
    return ModelConfig(stage_blocks=(1,), stage_channels=(4,), stem="cifar", **changes)


@pytest.mark.parametrize(("depth", "seed"), [(20, 0), (56, 3)])
def test_plain_and_residual_are_a_controlled_experiment(depth, seed):
    plain, residual = seeded(f"plain{depth}", seed).state_dict(), seeded(f"resnet{depth}", seed).state_dict()
    assert list(plain) == list(residual)
    assert all(torch.equal(plain[key], residual[key]) for key in plain)
    other = seeded(f"plain{depth}", seed + 1).state_dict()
    assert not torch.equal(plain["conv1.weight"], other["conv1.weight"])


def test_options_share_the_weights_they_have_in_common():
    a, c = seeded("resnet20").state_dict(), seeded("resnet20", shortcut="project_all").state_dict()
    assert set(a) < set(c)
    assert all(torch.equal(a[key], c[key]) for key in a)


def test_the_global_seed_applies_without_a_generator():
    torch.manual_seed(1)
    first = build_model("resnet8").state_dict()
    torch.manual_seed(1)
    again = build_model("resnet8").state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_basic_block_adds_the_identity():
    """Equation 1: y = ReLU(W2 ReLU(W1 x) + x), with BN after each convolution."""
    block = BasicBlock(config(shortcut="pad"), 4, 4, stride=1)
    x = torch.randn(3, 4, 6, 6)
    inner = F.relu(batch_norm(F.conv2d(x, block.conv1.weight, padding=1), block.bn1))
    branch = batch_norm(F.conv2d(inner, block.conv2.weight, padding=1), block.bn2)
    torch.testing.assert_close(block(x), F.relu(branch + x))


def test_basic_block_projects():
    """Equation 2: y = ReLU(F(x) + W_s x), W_s a 1x1 convolution with the block's stride."""
    block = BasicBlock(config(shortcut="project"), 4, 8, stride=2)
    assert isinstance(block.downsample, torch.nn.Sequential)
    x = torch.randn(3, 4, 7, 7)
    inner = F.relu(batch_norm(F.conv2d(x, block.conv1.weight, stride=2, padding=1), block.bn1))
    branch = batch_norm(F.conv2d(inner, block.conv2.weight, padding=1), block.bn2)
    w_s = block.get_parameter("downsample.0.weight")[:, :, 0, 0]
    projected = batch_norm(torch.einsum("oc,bchw->bohw", w_s, x[:, :, ::2, ::2]), block.downsample[1])
    torch.testing.assert_close(block(x), F.relu(branch + projected))


def test_option_a_pads_with_zeros():
    block = BasicBlock(config(shortcut="pad"), 4, 8, stride=2)
    assert block.downsample is not None
    x = torch.randn(2, 4, 6, 6)
    padded = block.downsample(x)
    assert torch.equal(padded[:, :4], x[:, :, ::2, ::2])
    assert torch.equal(padded[:, 4:], torch.zeros(2, 4, 3, 3))
    assert not list(block.downsample.parameters())


@pytest.mark.parametrize("stride", ["1x1", "3x3"])
def test_bottleneck(stride):
    block = Bottleneck(config(block="bottleneck", shortcut="project", bottleneck_stride=stride), 4, 4, stride=2)
    x = torch.randn(3, 4, 8, 8)
    first, second = (2, 1) if stride == "1x1" else (1, 2)
    y = F.relu(batch_norm(F.conv2d(x, block.conv1.weight, stride=first), block.bn1))
    y = F.relu(batch_norm(F.conv2d(y, block.conv2.weight, stride=second, padding=1), block.bn2))
    y = batch_norm(F.conv2d(y, block.conv3.weight), block.bn3)
    assert block.downsample is not None
    torch.testing.assert_close(block(x), F.relu(y + block.downsample(x)))
    assert y.shape == (3, 16, 4, 4)


def test_a_plain_block_has_no_shortcut():
    block = BasicBlock(config(shortcut="none"), 4, 4, stride=1)
    x = torch.randn(2, 4, 5, 5)
    assert block.downsample is None
    torch.testing.assert_close(block(x), F.relu(block.residual(x)))


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_residual_block_of_zeros_is_the_identity(block):
    kind = "basic" if block is BasicBlock else "bottleneck"
    width = 4 if block is BasicBlock else 16
    made = block(config(shortcut="pad", block=kind), width, 4, stride=1)
    for parameter in made.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.rand(2, width, 5, 5)
    assert torch.equal(made(x), x)
    plain = block(config(shortcut="none", block=kind), width, 4, stride=1)
    for parameter in plain.parameters():
        torch.nn.init.zeros_(parameter)
    assert not torch.equal(plain(x), x)


def test_zero_init_residual_starts_as_the_identity():
    model = seeded("resnet20", zero_init_residual=True).eval()
    maps = model.features(torch.rand(2, 3, 32, 32))
    assert torch.equal(maps["stage1"], maps["stem"])


def test_zero_init_of_bottlenecks():
    model = seeded("resnet50", zero_init_residual=True)
    assert not model.get_parameter("layer3.2.bn3.weight").any()
    assert model.get_parameter("layer3.2.bn2.weight").all()


def test_he_initialisation():
    model = seeded("resnet110")
    weight = model.get_parameter("layer3.10.conv1.weight")
    assert float(weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    scaled = seeded("resnet110", init_scale=0.1).get_parameter("layer3.10.conv1.weight")
    torch.testing.assert_close(scaled, 0.1 * weight)
    assert float(model.fc.bias.detach().abs().sum()) == 0


def test_without_normalisation_signals_vanish_or_explode_with_the_initial_scale():
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    stds = {
        scale: float(seeded("plain56", norm="none", init_scale=scale).features(images)["stage3"].std().detach())
        for scale in (0.5, 1.0, 2.0)
    }
    assert stds[0.5] < 1e-6 < stds[1.0] < 1e3 < stds[2.0]
    model = seeded("plain20", norm="none")
    assert model.conv1.bias is not None
    assert not [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("name", "size", "channels", "strides"),
    [
        ("resnet18", 224, (64, 64, 128, 256, 512), (4, 4, 8, 16, 32)),
        ("resnet50", 96, (64, 256, 512, 1024, 2048), (4, 4, 8, 16, 32)),
        ("plain20", 32, (16, 16, 32, 64), (1, 1, 2, 4)),
        ("resnet20", 33, (16, 16, 32, 64), (1, 1, 2, 4)),
    ],
)
def test_features(name, size, channels, strides):
    model = seeded(name).eval()
    images = torch.rand(1, 3, size, size)
    with torch.no_grad():
        maps = model.features(images)
        logits = model(images)
    assert list(maps) == ["stem", *(f"stage{i}" for i in range(1, len(channels)))]
    assert tuple(model.feature_channels.values()) == channels
    assert tuple(model.feature_strides.values()) == strides
    for name, x in maps.items():
        side = -(-size // model.feature_strides[name])
        assert x.shape == (1, model.feature_channels[name], side, side)
    torch.testing.assert_close(logits, model.fc(list(maps.values())[-1].mean((2, 3))))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_keys_are_torchvisions(name):
    """The expected keys are written out, block by block, so torchvision is not needed."""
    blocks, inner = ((2, 2, 2, 2), 2) if name == "resnet18" else ((3, 4, 6, 3), 3)
    bn = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    keys = ["conv1.weight", *(f"bn1.{x}" for x in bn)]
    for stage, count in enumerate(blocks, start=1):
        for position in range(count):
            at = f"layer{stage}.{position}"
            for i in range(1, inner + 1):
                keys += [f"{at}.conv{i}.weight", *(f"{at}.bn{i}.{x}" for x in bn)]
            if position == 0 and (stage > 1 or inner == 3):
                keys += [f"{at}.downsample.0.weight", *(f"{at}.downsample.1.{x}" for x in bn)]
    keys += ["fc.weight", "fc.bias"]
    assert list(seeded(name).state_dict()) == keys


def test_torchvision_computes_the_same():
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed beside CPU torch")
    reference = models.resnet50(weights=None).eval()
    model = build_model("resnet50").eval()
    model.load_state_dict(reference.state_dict())
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(images), reference(images))


def test_a_network_of_any_shape():
    model = ResNet(config(in_channels=1, num_classes=3))
    assert model(torch.rand(2, 1, 9, 11)).shape == (2, 3)
