"""More published networks: with unusual or missing names, or without batch normalisation."""

import torch.nn.functional as F
from torch import nn

from helpers.public_resnets import Module, conv


class HFConv(Module):
    def __init__(self, inputs, outputs, kernel, stride=1, relu=True):
        super().__init__()
        self.convolution, self.normalization = conv(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, x):
        x = self.normalization(self.convolution(x))
        return F.relu(x) if self.relu else x


class HFBlock(Module):
    def __init__(self, inputs, outputs, stride, bottleneck):
        super().__init__()
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else HFConv(inputs, outputs, 1, stride, relu=False)
        inner = outputs // 4
        if bottleneck:
            layers = [HFConv(inputs, inner, 1), HFConv(inner, inner, 3, stride), HFConv(inner, outputs, 1, relu=False)]
        else:
            layers = [HFConv(inputs, outputs, 3, stride), HFConv(outputs, outputs, 3, relu=False)]
        self.layer = nn.Sequential(*layers)

    def forward(self, x):
        return F.relu(self.layer(x) + self.shortcut(x))


class Container(Module):
    """A container of modules."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class HuggingFace(Module):
    def __init__(self, bottleneck=False):
        super().__init__()
        stages, inputs = [], 8
        for stage, count in enumerate((2, 2, 11, 1)):  # eleven: layers.10 must not come before layers.2
            made, outputs = [], (8 << stage) * (4 if bottleneck else 1)
            for position in range(count):
                made.append(HFBlock(inputs, outputs, 2 if stage and not position else 1, bottleneck))
                inputs = outputs
            stages.append(Container(layers=nn.Sequential(*made)))
        encoder = Container(stages=nn.ModuleList(stages))
        self.resnet = Container(embedder=Container(embedder=HFConv(3, 8, 7, 2)), encoder=encoder)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 6))

    def forward(self, x):
        x = F.max_pool2d(self.resnet.embedder.embedder(x), 3, 2, 1)
        for stage in self.resnet.encoder.stages:
            x = stage.layers(x)
        return self.classifier(F.adaptive_avg_pool2d(x, 1))


class D2LBlock(Module):
    """A block with an unnamed shortcut without batch normalisation; all convolutions have biases."""

    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, planes, 3, stride, True), conv(planes, planes, 3, 1, True)
        self.conv3 = conv(inputs, planes, 1, stride, True) if stride != 1 else None
        self.bn1, self.bn2 = nn.BatchNorm2d(planes), nn.BatchNorm2d(planes)

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if self.conv3 is None else self.conv3(x)))


class D2L(Module):
    """One Sequential of blocks, without stages."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            *(conv(3, 8, 3, 1, True), nn.BatchNorm2d(8), nn.ReLU()),
            *(D2LBlock(8, 8, 1), D2LBlock(8, 8, 1), D2LBlock(8, 16, 2), D2LBlock(16, 16, 1)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4, bias=False)),
        )

    def forward(self, x):
        return self.net(x)


class DetectronConv(nn.Conv2d):
    def __init__(self, inputs, outputs, kernel, stride=1):
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, input):  # noqa: A002  # the name in nn.Conv2d
        return self.norm(super().forward(input))


class DetectronBlock(Module):
    def __init__(self, inputs, inner, stride):
        super().__init__()
        if inputs != inner * 4:
            self.shortcut = DetectronConv(inputs, inner * 4, 1, stride)
        self.conv1 = DetectronConv(inputs, inner, 1, stride)
        self.conv2 = DetectronConv(inner, inner, 3)
        self.conv3 = DetectronConv(inner, inner * 4, 1)

    def forward(self, x):
        out = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(out + (self.shortcut(x) if hasattr(self, "shortcut") else x))


class Detectron(Module):
    def __init__(self):
        super().__init__()
        self.stem = Container(conv1=DetectronConv(3, 8, 7, 2))
        self.res2 = nn.Sequential(DetectronBlock(8, 8, 1), DetectronBlock(32, 8, 1))
        self.res3 = nn.Sequential(DetectronBlock(32, 16, 2), DetectronBlock(64, 16, 1))
        self.linear = nn.Linear(64, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem.conv1(x)), 3, 2, 1)
        return self.linear(self.res3(self.res2(x)).mean((2, 3)))


class WithoutNorm(Module):
    """Without batch normalisation; plain, or with option A (an odd number of zero channels, split)."""

    def __init__(self, plain, bottleneck=False):
        super().__init__()
        self.plain, self.bottleneck = plain, bottleneck
        self.conv1 = conv(1, 4, 3, 1, True)
        inputs = 4
        for stage, inner in enumerate((4, 7, 12)):
            made = []
            for position in range(2):
                stride = 2 if stage and not position else 1
                kernels = ((1, 1), (3, stride), (1, 1)) if bottleneck else ((3, stride), (3, 1))
                convs, channels = {}, inputs
                for number, (kernel, step) in enumerate(kernels, start=1):
                    outputs = inner * 4 if number == 3 else inner
                    convs[f"conv{number}"] = conv(channels, outputs, kernel, step, True)
                    channels = outputs
                made.append(Container(**convs))
                inputs = channels
            setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
        self.fc = nn.Linear(inputs, 4)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        for stage in (self.layer1, self.layer2, self.layer3):
            for block in stage:
                out = block.conv2(F.relu(block.conv1(x)))
                if self.bottleneck:
                    out = block.conv3(F.relu(out))
                if not self.plain:
                    step, extra = x.shape[-1] // out.shape[-1], out.shape[1] - x.shape[1]
                    out = out + F.pad(x[:, :, ::step, ::step], (0, 0, 0, 0, extra // 2, extra - extra // 2))
                x = F.relu(out)
        return self.fc(x.mean((2, 3)))
