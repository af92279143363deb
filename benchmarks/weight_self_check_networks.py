"""Small networks trained for seconds under each assumption that weights do not show (for weight_self_check.py).

The networks, their augmentation and their training loop are written here without resnetlab's trainer and transforms, so
that the check is not compared with its own idea of them.
"""

import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from resnetlab.config import ModelConfig
from resnetlab.models.blocks import PadShortcut
from resnetlab.models.resnet import ResNet

STEPS, BATCH_SIZE, LR = 60, 64, 0.1
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-10, deviation within images": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "CIFAR-100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "-1 to 1": ((0.5,) * 3, (0.5,) * 3),
    "0 to 1": ((0.0,) * 3, (1.0,) * 3),
    "0 to 1 minus ImageNet's mean": ((0.485, 0.456, 0.406), (1.0,) * 3),
    "0 to 255": ((0.0,) * 3, (1 / 255,) * 3),
    "0 to 255 minus ImageNet's mean": ((0.485, 0.456, 0.406), (1 / 255,) * 3),
}


@dataclass(frozen=True)
class Spec:
    """The truth about one network."""

    shortcut: Any = "pad"
    split: bool = False
    blocks: tuple[int, ...] = (1, 1, 1)
    channels: tuple[int, ...] = (16, 32, 64)
    block: str = "basic"
    stem: Any = "cifar"
    stride: Any = "3x3"
    normalisation: str = "ImageNet"
    bgr: bool = False
    """Channels are reversed before the mean is subtracted, as after OpenCV."""
    augmentation: str = "black"
    average_pool: bool = False
    average_shortcut: bool = False
    epsilon: float = 1e-5
    extra: dict[str, Any] = field(default_factory=dict)


BOTTLENECK: dict[str, Any] = {"block": "bottleneck"}
PHOTO: dict[str, Any] = {
    "stem": "imagenet",
    "channels": (16, 32, 64, 128),
    "blocks": (1, 1, 1, 1),
    "shortcut": "project",
    "augmentation": "resized",
}
NARROW: dict[str, Any] = {**PHOTO, "block": "bottleneck", "channels": (16, 16, 32, 64)}
SMALL = {
    "plain-imagenet": Spec("none"),
    "plain14-cifar-zero": Spec("none", blocks=(2, 2, 2), normalisation="CIFAR-10", augmentation="zero"),
    "A-append-cifar": Spec(normalisation="CIFAR-10"),
    "A-split-imagenet": Spec(split=True),
    "A14-append-zero": Spec(blocks=(2, 2, 2), augmentation="zero"),
    "A14-split-half-none": Spec(split=True, blocks=(2, 2, 2), normalisation="-1 to 1", augmentation="none"),
    "B-bgr": Spec("project", bgr=True),
    "A-bgr-cifar": Spec(normalisation="CIFAR-10", bgr=True),
    "A-caffe-bgr": Spec(normalisation="0 to 255 minus ImageNet's mean", bgr=True, augmentation="zero"),
    "A-255": Spec(normalisation="0 to 255"),
    "plain-01": Spec("none", normalisation="0 to 1"),
    "B-mean": Spec("project", normalisation="0 to 1 minus ImageNet's mean", augmentation="none"),
    "bott-v1-B": Spec("project", stride="1x1", **BOTTLENECK),
    "bott-v15-B": Spec("project", normalisation="-1 to 1", **BOTTLENECK),
    "bott-v1-A": Spec(stride="1x1", normalisation="CIFAR-10", **BOTTLENECK),
    "B-projavg": Spec("project", average_shortcut=True),
    "A-eps1e-3": Spec(epsilon=1e-3),
    "A-cifar2": Spec(normalisation="CIFAR-10, deviation within images"),
    "A-cifar100": Spec(normalisation="CIFAR-100", split=True),
    "A-reflect": Spec(augmentation="reflect", normalisation="CIFAR-10"),
    "A-cutout-jitter": Spec(augmentation="black cutout jitter"),
    "A-mixup": Spec(augmentation="black mixup", normalisation="CIFAR-10"),
    "A-strong-bgr": Spec(augmentation="black jitter grey autocontrast cutout", bgr=True, split=True),
    "plain-jitter": Spec("none", augmentation="zero jitter", normalisation="CIFAR-10"),
}
"""Trained on CIFAR-10 at 32 pixels. The last five have augmentations that the check does not try."""
PHOTOGRAPHS = {
    "I-max": Spec(**PHOTO),
    "I-avg": Spec(**PHOTO, average_pool=True),
    "I-bgr-caffe": Spec(**PHOTO, bgr=True, normalisation="0 to 255 minus ImageNet's mean"),
    "I-bott-v15": Spec(**NARROW),
    "I-bott-v1": Spec(**NARROW, stride="1x1"),
}
"""Trained on Imagenette at 64 pixels, with a 7x7 stem."""


def load_images(path: Path, split: str, count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return a random sample of a split of parquet files: uint8 images, and labels."""
    table = pq.read_table(path / f"{split}-00000-of-00001.parquet")
    column = "img" if "img" in table.column_names else "image"
    rows = np.random.default_rng(seed).permutation(table.num_rows)[:count].tolist()
    images = [Image.open(io.BytesIO(table[column][row]["bytes"].as_py())).convert("RGB") for row in rows]
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
    return pixels, torch.tensor([table["label"][row].as_py() for row in rows])


class SplitPad(nn.Module):
    """Option A with half of its zero channels in front."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad."""
        front = self.extra // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, front, self.extra - front))


def build(spec: Spec, seed: int) -> ResNet:
    """Return the network of a spec with random weights."""
    config = ModelConfig(
        "x", spec.blocks, spec.channels, spec.block, spec.stem, spec.shortcut, spec.stride, num_classes=10
    )
    model = ResNet(config, torch.Generator().manual_seed(seed))
    for block in [block for stage in model.stages.values() for block in stage]:
        shortcut = block.downsample
        if spec.split and isinstance(shortcut, PadShortcut):
            block.downsample = SplitPad(shortcut.extra_channels, shortcut.stride)
        if spec.average_shortcut and isinstance(shortcut, nn.Sequential) and shortcut[0].stride == (2, 2):
            projection: Any = shortcut[0]
            projection.stride = (1, 1)
            projection.register_forward_pre_hook(lambda _, inputs: (F.avg_pool2d(inputs[0], 2),))
    if spec.average_pool:
        model.register_module("maxpool", nn.AvgPool2d(3, 2, 1))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = spec.epsilon
    return model


def make_batch(images: Tensor, spec: Spec, generator: torch.Generator) -> Tensor:
    """Return augmented and normalised images."""
    words, number = spec.augmentation.split(), len(images)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in NORMALISATIONS[spec.normalisation])

    def chance() -> Tensor:
        return torch.rand(number, generator=generator).view(-1, 1, 1, 1)

    x = images.float() / 255
    x = torch.where(chance() < 0.5, x.flip(-1), x)
    if "jitter" in words:
        x = (x * (1 + 0.8 * (chance() - 0.5))).clamp(0, 1)
        level = x.mean((1, 2, 3), keepdim=True)
        x = ((x - level) * (1 + 0.8 * (chance() - 0.5)) + level).clamp(0, 1)
    if "grey" in words:
        x = torch.where(chance() < 0.2, x.mean(1, keepdim=True), x)
    if "autocontrast" in words:
        low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = torch.where(chance() < 0.5, (x - low) / (high - low + 1e-3), x)
    x = x.flip(1) if spec.bgr else x
    if "zero" in words:
        x = (x - mean) / std
    if {"zero", "black", "reflect"} & {*words}:
        x = _shifted(x, "reflect" if "reflect" in words else "constant", generator)
    if "resized" in words:
        x = torch.stack([_resized_crop(image, generator) for image in x])
    if "zero" not in words:
        x = (x - mean) / std
    return _cut_out(x, generator) if "cutout" in words else x


def _shifted(x: Tensor, mode: str, generator: torch.Generator) -> Tensor:
    side, padding = x.shape[-1], x.shape[-1] // 8
    padded = F.pad(x, (padding,) * 4, mode=mode)
    offsets = torch.randint(0, 2 * padding + 1, (len(x), 2), generator=generator).tolist()
    return torch.stack([image[:, a : a + side, b : b + side] for image, (a, b) in zip(padded, offsets, strict=True)])


def _resized_crop(image: Tensor, generator: torch.Generator) -> Tensor:
    side = image.shape[-1]
    area = (0.08 + 0.92 * torch.rand((), generator=generator).item()) * side**2
    aspect = math.exp((2 * torch.rand((), generator=generator).item() - 1) * math.log(4 / 3))
    width, height = (min(side, round(math.sqrt(area * ratio))) for ratio in (aspect, 1 / aspect))
    top = int(torch.randint(0, side - height + 1, (), generator=generator))
    left = int(torch.randint(0, side - width + 1, (), generator=generator))
    crop = image[None, :, top : top + height, left : left + width]
    return F.interpolate(crop, (side, side), mode="bilinear", antialias=True)[0]


def _cut_out(x: Tensor, generator: torch.Generator) -> Tensor:
    side, x = x.shape[-1], x.clone()
    half = side // 4
    for image in x:
        top, left = (int(torch.randint(0, side, (), generator=generator)) - half for _ in range(2))
        image[:, max(top, 0) : top + 2 * half, max(left, 0) : left + 2 * half] = 0
    return x


def train(spec: Spec, images: Tensor, labels: Tensor, *, seed: int) -> dict[str, Tensor]:
    """Train a network for `STEPS` steps of SGD; return its state dict."""
    generator = torch.Generator().manual_seed(seed)
    model = build(spec, seed).train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=5e-4)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1, (step + 1) / 20) * (1 - step / STEPS)
        rows = torch.randint(0, len(images), (BATCH_SIZE,), generator=generator)
        batch, target = make_batch(images[rows], spec, generator), labels[rows]
        if "mixup" in spec.augmentation:
            share = float(np.random.default_rng(step).beta(1, 1))
            logits = model(share * batch + (1 - share) * batch.flip(0))
            loss = share * F.cross_entropy(logits, target) + (1 - share) * F.cross_entropy(logits, target.flip(0))
        else:
            loss = F.cross_entropy(model(batch), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()
