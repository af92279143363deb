"""The published weights that have a name: where they are, what they are, and their preprocessing.

Every value is as its publisher states it; docs/pretrained.md lists the sources. `accuracy` is the publisher's, measured
with the preprocessing given here.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from resnetlab.config import Interpolation, ModelConfig, Preprocessing, ResizeRule
from resnetlab.models.zoo import model_config
from resnetlab.system.download import RemoteFile

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)
CIFAR100_MEAN, CIFAR100_STD = (0.507, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)


@dataclass(frozen=True)
class Publisher:
    """Who published weights, under which licence, and how images are preprocessed for them."""

    name: str
    """`torchvision` or `timm`."""
    page: str
    """Address of the repository."""
    licence: str
    """SPDX identifier of the repository's licence."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Subtracted from each channel, for values from 0 to 1."""
    std: tuple[float, ...] = IMAGENET_STD
    """Divides each channel then."""
    interpolation: Interpolation = "bilinear"
    """Kernel that resizes images of another size, with antialiasing."""
    resize_rule: ResizeRule | None = None
    """The package whose rounding the published accuracy was measured with; `None` if images have the network's size."""


TORCHVISION = Publisher(
    "torchvision",
    "https://github.com/pytorch/vision",
    "BSD-3-Clause",
    resize_rule="torchvision",
)
TIMM = Publisher(
    "timm",
    "https://github.com/huggingface/pytorch-image-models",
    "Apache-2.0",
    interpolation="bicubic",
    resize_rule="timm",
)
AKAMASTER = Publisher("akamaster", "https://github.com/akamaster/pytorch_resnet_cifar10", "BSD-2-Clause")
CHENYAOFO = Publisher(
    "chenyaofo", "https://github.com/chenyaofo/pytorch-cifar-models", "BSD-3-Clause", CIFAR10_MEAN, CIFAR10_STD
)
CHENYAOFO_100 = Publisher(CHENYAOFO.name, CHENYAOFO.page, CHENYAOFO.licence, CIFAR100_MEAN, CIFAR100_STD)


@dataclass(frozen=True)
class PretrainedWeights:
    """A file of published weights: its address, network, preprocessing and published accuracy."""

    name: str
    """Network and tag, joined by a dot, such as `resnet50.tv2_in1k`."""
    file: RemoteFile
    """Address, and the SHA-256 as far as it is published."""
    publisher: Publisher
    """Name, page and licence of the repository."""
    data: Literal["imagenet", "cifar10", "cifar100"]
    """The data set of the training, which gives the class names."""
    top1_pct: float
    """Published accuracy in %: images whose class is the most probable one."""
    top5_pct: float | None = None
    """Published accuracy in %: images whose class is among the five most probable ones; `None` if not published."""
    image_size: int = 32
    """Side of the network's input in pixels."""
    crop_ratio: float = 1.0
    """Side of the centre crop over the shorter side of the resized image."""
    hub: str | None = None
    """The same weights on the Hugging Face hub, as `owner/name`."""
    size_mib: float | None = None
    """Size of the file in MiB, if it is published."""
    shortcut: Literal["pad", "project"] = "project"
    """The shortcuts of the network: option A or B."""

    @property
    def file_name(self) -> str:
        """Name of the published file."""
        return self.file.url.rpartition("/")[2]

    @property
    def model(self) -> ModelConfig:
        """The architecture."""
        num_classes = {"imagenet": 1000, "cifar10": 10, "cifar100": 100}[self.data]
        return model_config(self.name.partition(".")[0], num_classes=num_classes, shortcut=self.shortcut)

    @property
    def num_params(self) -> int:
        """The number of parameters, counted without PyTorch."""
        config, inputs = self.model, self.model.stem_width
        total = config.in_channels * inputs * (49 if config.stem == "imagenet" else 9) + 2 * inputs
        for stage, (count, inner) in enumerate(zip(config.stage_blocks, config.stage_channels, strict=True)):
            for position in range(count):
                outputs, width = inner * config.expansion, config.group_width(inner)
                kernels = [(inputs, inner, 9), (inner, outputs, 9)]
                if config.block == "bottleneck":
                    kernels = [(inputs, width, 1), (width // config.groups, width, 9), (width, outputs, 1)]
                if config.shortcut == "project" and position == 0 and (stage > 0 or inputs != outputs):
                    kernels.append((inputs, outputs, 1))
                total += sum(before * after * area + 2 * after for before, after, area in kernels)  # 2: scale and shift
                inputs = outputs
        return total + (inputs + 1) * config.num_classes

    @property
    def preprocessing(self) -> Preprocessing:
        """The publisher's preprocessing of test images."""
        publisher = self.publisher
        return Preprocessing(
            self.image_size,
            publisher.mean,
            publisher.std,
            crop_ratio=self.crop_ratio,
            **{} if publisher.resize_rule is None else reference_fields(publisher.interpolation, publisher.resize_rule),
        )

    @property
    def resize_size(self) -> int | None:
        """Shorter side of the resized image in pixels, before the centre crop; `None` if images are not resized."""
        if self.publisher.resize_rule is None:
            return None
        side = self.image_size / self.crop_ratio
        return math.floor(side) if self.publisher.resize_rule == "timm" else round(side)


def reference_fields(interpolation: Interpolation, resize_rule: ResizeRule) -> dict[str, Any]:
    """Return the fields of `Preprocessing` for the pixels of torchvision or timm, which ignore colour profiles."""
    return {"interpolation": interpolation, "resize_rule": resize_rule, "color_profiles": "ignore"}


def _torchvision(file: str, tag: str, top1: float, top5: float, *, resize: int, size: float) -> PretrainedWeights:
    network, _, digest = file.partition("-")
    return PretrainedWeights(
        f"{network}.{tag}_in1k",
        RemoteFile(f"https://download.pytorch.org/models/{file}.pth", digest),
        TORCHVISION,
        "imagenet",
        top1,
        top5,
        image_size=224,
        crop_ratio=224 / resize,
        hub=f"timm/{network}.{tag}_in1k",
        size_mib=size,
    )


def _timm(name: str, owner: str, file: str, top1: float, top5: float) -> PretrainedWeights:
    address = f"https://github.com/{owner}/pytorch-image-models/releases/download/v0.1-rsb-weights/{file}.pth"
    return PretrainedWeights(
        name,
        RemoteFile(address, file.rpartition("-")[2]),
        TIMM,
        "imagenet",
        top1,
        top5,
        image_size=224,
        crop_ratio=0.95,
        hub=f"timm/{name}",
    )


def _akamaster(depth: int, sha256: str, error_pct: float, size: float | None = None) -> PretrainedWeights:
    file = f"resnet{depth}-{sha256[:8]}.th"
    return PretrainedWeights(
        f"resnet{depth}.akamaster_cifar10",
        RemoteFile(f"{AKAMASTER.page}/raw/master/pretrained_models/{file}", sha256),
        AKAMASTER,
        "cifar10",
        round(100 - error_pct, 2),
        size_mib=size,
        shortcut="pad",
    )


def _chenyaofo(
    depth: int, data: Literal["cifar10", "cifar100"], digest: str, accuracy: tuple[float, float]
) -> PretrainedWeights:
    return PretrainedWeights(
        f"resnet{depth}.chenyaofo_{data}",
        RemoteFile(f"{CHENYAOFO.page}/releases/download/resnet/{data}_resnet{depth}-{digest}.pt", digest),
        CHENYAOFO if data == "cifar10" else CHENYAOFO_100,
        data,
        *accuracy,
    )


_ENTRIES: tuple[PretrainedWeights, ...] = (
    _torchvision("resnet18-f37072fd", "tv", 69.758, 89.078, resize=256, size=44.661),
    _torchvision("resnet34-b627a593", "tv", 73.314, 91.420, resize=256, size=83.275),
    _torchvision("resnet50-0676ba61", "tv", 76.130, 92.862, resize=256, size=97.781),
    _torchvision("resnet50-11ad3fa6", "tv2", 80.858, 95.434, resize=232, size=97.79),
    _torchvision("resnet101-63fe2227", "tv", 77.374, 93.546, resize=256, size=170.511),
    _torchvision("resnet101-cd907fc2", "tv2", 81.886, 95.780, resize=232, size=170.53),
    _torchvision("resnet152-394f9c45", "tv", 78.312, 94.046, resize=256, size=230.434),
    _torchvision("resnet152-f82ba261", "tv2", 82.284, 96.002, resize=232, size=230.474),
    _torchvision("resnext50_32x4d-7cdf4587", "tv", 77.618, 93.698, resize=256, size=95.789),
    _torchvision("resnext50_32x4d-1a0047aa", "tv2", 81.198, 95.340, resize=232, size=95.833),
    _torchvision("resnext101_32x8d-8ba56ff5", "tv", 79.312, 94.526, resize=256, size=339.586),
    _torchvision("resnext101_32x8d-110c445d", "tv2", 82.834, 96.228, resize=232, size=339.673),
    _torchvision("resnext101_64x4d-173b62eb", "tv", 83.246, 96.454, resize=232, size=319.318),
    _torchvision("wide_resnet50_2-95faca4d", "tv", 78.468, 94.086, resize=256, size=131.82),
    _torchvision("wide_resnet50_2-9ba9bcbe", "tv2", 81.602, 95.758, resize=232, size=263.124),
    _torchvision("wide_resnet101_2-32ee1156", "tv", 78.848, 94.284, resize=256, size=242.896),
    _torchvision("wide_resnet101_2-d733dc28", "tv2", 82.510, 96.020, resize=232, size=484.747),
    _timm("resnet18.a1_in1k", "huggingface", "resnet18_a1_0-d63eafa0", 71.504, 90.086),
    _timm("resnet34.a1_in1k", "huggingface", "resnet34_a1_0-46f8f793", 76.420, 92.896),
    _timm("resnet50.a1_in1k", "rwightman", "resnet50_a1_0-14fe96d1", 80.382, 94.598),
    _timm("resnet101.a1h_in1k", "rwightman", "resnet101_a1h-36d3f2aa", 81.950, 95.760),
    _timm("resnet152.a1h_in1k", "rwightman", "resnet152_a1h-dc400468", 82.818, 96.124),
    _akamaster(20, "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8", 8.27, 1.048),
    _akamaster(32, "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850", 7.37, 1.802),
    _akamaster(44, "014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4", 6.90, 2.557),
    _akamaster(56, "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367", 6.61, 3.311),
    _akamaster(110, "1d1ed7c2", 6.32),
    _akamaster(1202, "f3b1deed", 6.18),
    _chenyaofo(20, "cifar10", "4118986f", (92.60, 99.81)),
    _chenyaofo(32, "cifar10", "ef93fc4d", (93.53, 99.77)),
    _chenyaofo(44, "cifar10", "2a3cabcb", (94.01, 99.77)),
    _chenyaofo(56, "cifar10", "187c023a", (94.37, 99.83)),
    _chenyaofo(20, "cifar100", "23dac2f1", (68.83, 91.01)),
    _chenyaofo(32, "cifar100", "84213ce6", (70.16, 90.89)),
    _chenyaofo(44, "cifar100", "ffe32858", (71.63, 91.58)),
    _chenyaofo(56, "cifar100", "f2eff4c8", (72.63, 91.94)),
)
CATALOGUE: dict[str, PretrainedWeights] = {entry.name: entry for entry in _ENTRIES}
"""The entries by name."""
