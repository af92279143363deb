"""Small copies of published networks, each with the names and the structure of its repository."""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn


class Module(nn.Module):
    """A module whose attributes have any type."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


def conv(inputs, outputs, kernel, stride=1, bias=False):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)


def randomise(net, seed=0):
    """Give every parameter and statistic a random value, so that every mistake changes the output."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.dim() > 1:
            tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
        elif name.endswith("weight"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(0, 0.3, generator=generator)
    return net.eval()


class TorchvisionBlock(Module):
    """Basic block or bottleneck, v1.5 or v1; with `where="everywhere"`, every block projects."""

    def __init__(self, inputs, inner, stride, bottleneck, where, v1=False, bias=False):
        super().__init__()
        outputs = inner * 4 if bottleneck else inner
        if bottleneck:
            self.conv1, self.bn1 = conv(inputs, inner, 1, stride if v1 else 1, bias), nn.BatchNorm2d(inner)
            self.conv2, self.bn2 = conv(inner, inner, 3, 1 if v1 else stride, bias), nn.BatchNorm2d(inner)
            self.conv3, self.bn3 = conv(inner, outputs, 1, 1, bias), nn.BatchNorm2d(outputs)
        else:
            self.conv1, self.bn1 = conv(inputs, inner, 3, stride, bias), nn.BatchNorm2d(inner)
            self.conv2, self.bn2 = conv(inner, inner, 3, 1, bias), nn.BatchNorm2d(inner)
        self.bottleneck = bottleneck
        self.downsample = None
        if where == "everywhere" or stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride, bias), nn.BatchNorm2d(outputs))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            out = self.bn3(self.conv3(F.relu(out)))
        return F.relu(out + identity)


class Torchvision(Module):
    def __init__(self, blocks=(2, 1, 2, 1), bottleneck=False, where="changes", v1=False, bias=False, classes=5):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 8, 7, 2, bias), nn.BatchNorm2d(8)
        channels = 8
        for stage, count in enumerate(blocks):
            inner = 8 * 2**stage
            made = []
            for position in range(count):
                stride = 2 if stage and position == 0 else 1
                made.append(TorchvisionBlock(channels, inner, stride, bottleneck, where, v1, bias))
                channels = inner * 4 if bottleneck else inner
            setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(x.mean((2, 3)))


class AkamasterBlock(Module):
    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3), nn.BatchNorm2d(planes)
        self.pads, self.quarter = stride != 1 or inputs != planes, planes // 4

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pads:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.quarter, self.quarter), "constant", 0)
        return F.relu(out + x)


class Akamaster(Module):
    def __init__(self, n=3, classes=10):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 16, 3), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(AkamasterBlock(16, 16, 1) for _ in range(n)))
        self.layer2 = nn.Sequential(*(AkamasterBlock(32 if i else 16, 32, 1 if i else 2) for i in range(n)))
        self.layer3 = nn.Sequential(*(AkamasterBlock(64 if i else 32, 64, 1 if i else 2) for i in range(n)))
        self.linear = nn.Linear(64, classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(x, x.size()[3]).flatten(1))


class KuangliuBlock(Module):
    def __init__(self, inputs, planes, stride, bottleneck):
        super().__init__()
        outputs = 4 * planes if bottleneck else planes
        first = conv(inputs, planes, 1) if bottleneck else conv(inputs, planes, 3, stride)
        self.conv1, self.bn1 = first, nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3, stride if bottleneck else 1), nn.BatchNorm2d(planes)
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv3, self.bn3 = conv(planes, outputs, 1), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            out = self.bn3(self.conv3(F.relu(out)))
        return F.relu(out + self.shortcut(x))


class Kuangliu(Module):
    def __init__(self, bottleneck=False):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 8, 3), nn.BatchNorm2d(8)
        inputs = 8
        for stage in range(4):
            made = []
            for position in range(2):
                made.append(KuangliuBlock(inputs, 8 << stage, 2 if stage and not position else 1, bottleneck))
                inputs = (8 << stage) * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
        self.linear = nn.Linear(inputs, 10)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


class WeiaicunzaiBlock(Module):
    def __init__(self, inputs, planes, stride, bottleneck):
        super().__init__()
        outputs = 4 * planes if bottleneck else planes
        if bottleneck:
            layers = [conv(inputs, planes, 1), nn.BatchNorm2d(planes), nn.ReLU(), conv(planes, planes, 3, stride)]
            layers += [nn.BatchNorm2d(planes), nn.ReLU(), conv(planes, outputs, 1), nn.BatchNorm2d(outputs)]
        else:
            layers = [conv(inputs, planes, 3, stride), nn.BatchNorm2d(planes), nn.ReLU(), conv(planes, planes, 3)]
            layers += [nn.BatchNorm2d(planes)]
        self.residual_function = nn.Sequential(*layers)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return F.relu(self.residual_function(x) + self.shortcut(x))


class Weiaicunzai(Module):
    def __init__(self, bottleneck=False):
        super().__init__()
        self.conv1 = nn.Sequential(conv(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        inputs = 8
        for stage in range(4):
            made = []
            for position in range(2):
                made.append(WeiaicunzaiBlock(inputs, 8 << stage, 2 if stage and not position else 1, bottleneck))
                inputs = (8 << stage) * (4 if bottleneck else 1)
            setattr(self, f"conv{stage + 2}_x", nn.Sequential(*made))
        self.fc = nn.Linear(inputs, 100)

    def forward(self, x):
        x = self.conv5_x(self.conv4_x(self.conv3_x(self.conv2_x(self.conv1(x)))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class DXYBlock(Module):
    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv_a, self.bn_a = conv(inputs, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv_b, self.bn_b = conv(planes, planes, 3), nn.BatchNorm2d(planes)
        self.avg = nn.AvgPool2d(1, stride) if stride != 1 else None

    def forward(self, x):
        out = self.bn_b(self.conv_b(F.relu(self.bn_a(self.conv_a(x)))))
        if self.avg is not None:
            x = self.avg(x)
            x = torch.cat((x, x.mul(0)), 1)
        return F.relu(x + out)


class DXY(Module):
    def __init__(self, n=2):
        super().__init__()
        self.conv_1_3x3, self.bn_1 = conv(3, 16, 3), nn.BatchNorm2d(16)
        self.stage_1 = nn.Sequential(*(DXYBlock(16, 16, 1) for _ in range(n)))
        self.stage_2 = nn.Sequential(*(DXYBlock(32 if i else 16, 32, 1 if i else 2) for i in range(n)))
        self.stage_3 = nn.Sequential(*(DXYBlock(64 if i else 32, 64, 1 if i else 2) for i in range(n)))
        self.classifier = nn.Linear(64, 10)

    def forward(self, x):
        x = self.stage_3(self.stage_2(self.stage_1(F.relu(self.bn_1(self.conv_1_3x3(x))))))
        return self.classifier(F.avg_pool2d(x, 8).flatten(1))
