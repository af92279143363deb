"""Import of wide networks, ResNeXt and ResNet-C/D in torchvision's and timm's layouts, against their forward passes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.public_resnets import Module, conv, randomise
from resnetlab.models.importing.import_weights import import_weights
from resnetlab.models.importing.infer_architecture import infer_architecture
from resnetlab.models.zoo import VARIANTS, build_model, model_config


class TimmBlock(Module):
    """timm's bottleneck: groups, base width, and average pooling in front of the projection."""

    def __init__(self, inputs, inner, stride, *, groups, width, average):
        super().__init__()
        middle, outputs = inner * width // 64 * groups, 4 * inner
        self.conv1, self.bn1 = conv(inputs, middle, 1), nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3, self.bn3 = conv(middle, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = None
        if average and (stride > 1 or inputs != outputs):
            pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
            self.downsample = nn.Sequential(pool, conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        elif stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x)))


class Timm(Module):
    def __init__(self, *, groups=1, width=64, average=False, deep=False, stem_bias=False):
        super().__init__()
        if deep:
            self.conv1 = nn.Sequential(
                *(conv(3, 8, 3, 2, stem_bias), nn.BatchNorm2d(8), nn.ReLU()),
                *(conv(8, 8, 3, 1, stem_bias), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 16, 3, 1, stem_bias)),
            )
        else:
            self.conv1 = conv(3, 16, 7, 2)
        self.bn1 = nn.BatchNorm2d(16)
        inputs = 16
        for stage, count in enumerate((2, 2, 1)):
            made = []
            for position in range(count):
                stride, inner = 2 if stage and not position else 1, 16 << stage
                made.append(TimmBlock(inputs, inner, stride, groups=groups, width=width, average=average))
                inputs = 4 * inner
            setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
        self.fc = nn.Linear(inputs, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


NETWORKS = {
    "wide": ({"width": 128}, {"width_per_group": 128}),
    "ResNeXt": ({"groups": 4, "width": 32}, {"groups": 4, "width_per_group": 32}),
    "ResNet-C": ({"deep": True}, {"stem": "deep"}),
    "ResNet-D": ({"deep": True, "average": True}, {"stem": "deep", "average_shortcut": True}),
    "ResNeXt-D": (
        {"deep": True, "average": True, "groups": 8, "width": 16},
        {"stem": "deep", "average_shortcut": True, "groups": 8, "width_per_group": 16},
    ),
    "biases in the stem": ({"deep": True, "stem_bias": True}, {"stem": "deep"}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_imported_network_computes_what_the_original_does(tmp_path, name):
    arguments, fields = NETWORKS[name]
    original = randomise(Timm(**arguments))
    torch.save(original.state_dict(), tmp_path / "net.pth")
    found = import_weights(tmp_path / "net.pth")
    assert {field: getattr(found.model.config, field) for field in fields} == fields
    assert found.model.config.stage_channels == (16, 32, 64)
    images = torch.randn(2, 3, 60, 60, generator=torch.Generator().manual_seed(1))  # 15 positions: odd
    with torch.no_grad():
        torch.testing.assert_close(found.model(images), original(images), rtol=1e-4, atol=1e-5)


def test_assumptions_of_resnet_d_are_listed(tmp_path):
    torch.save(randomise(Timm(deep=True, average=True)).state_dict(), tmp_path / "net.pth")
    listed = {item.subject: item for item in import_weights(tmp_path / "net.pth").assumptions}
    assert listed["stride of projections"].value.startswith("an average of 2x2 positions")
    assert listed["stem"].value.startswith("stride 2 in the first convolution")


@pytest.mark.parametrize("name", VARIANTS)
def test_names_are_found_from_keys_and_shapes(name):
    """In torchvision's keys; timm's ResNet-D has its projections one position further."""
    with torch.device("meta"):
        shapes = {key: tuple(tensor.shape) for key, tensor in build_model(name).state_dict().items()}
    if model_config(name).average_shortcut:
        for old, new in (("downsample.1.", "downsample.2."), ("downsample.0.", "downsample.1.")):
            shapes = {key.replace(old, new): shape for key, shape in shapes.items()}
    for in_order in (True, False):
        assert infer_architecture(shapes, in_order=in_order).config == model_config(name)


def test_a_stem_of_other_width_than_the_first_stage(tmp_path):
    """A wide CIFAR network without pre-activation: 8 channels in the stem, 32 in the first stage."""
    model = randomise(build_model("resnet8", stage_channels=(32, 64, 128), stem_channels=8, shortcut="project"))
    torch.save(model.state_dict(), tmp_path / "net.pth")
    found = import_weights(tmp_path / "net.pth")
    assert found.model.config.stem_channels == 8
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(found.model(images), model(images))
