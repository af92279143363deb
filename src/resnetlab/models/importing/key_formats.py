"""Whose keys they are, and what those who use them do where weights do not tell. No torch here."""

import re
from dataclasses import dataclass
from typing import Literal

Placement = Literal["append", "split"]


@dataclass(frozen=True)
class KeyFormat:
    """A way to name tensors, and what those who use it do where tensors do not tell."""

    name: str
    pattern: str
    """Fits `first convolution of a block`, `shortcut or nothing`, `head`, with a space between."""
    zero_channels: Placement | None = None
    """Where its option A puts the zero channels, if it has one: all behind, or half in front and half behind."""
    bottleneck_stride: Literal["1x1", "3x3"] = "3x3"


LAYOUTS: tuple[KeyFormat, ...] = (
    KeyFormat("Hugging Face transformers", r"stages\.\d+\.layers\.\d+\.layer\.\d+\.convolution "),
    KeyFormat("weiaicunzai's pytorch-cifar100", r"conv\d_x\.\d+\.residual_function\.\d+ "),
    KeyFormat("D-X-Y's ResNeXt-DenseNet", r"stage_\d+\.\d+\.conv(_1x1)?_a ", zero_channels="append"),
    KeyFormat("pytorchcv", r"stage\d+\.unit\d+\.body\.conv1\.conv ", bottleneck_stride="1x1"),
    KeyFormat("Detectron2", r"res\d+\.\d+\.conv1 (\S*shortcut)? ", bottleneck_stride="1x1"),
    KeyFormat("akamaster's pytorch_resnet_cifar10", r"layer\d+\.\d+\.\w*conv1  \S*linear$", zero_channels="split"),
    KeyFormat("kuangliu's pytorch-cifar", r"layer\d+\.\d+\.conv1 \S*shortcut\.\d+ \S*linear$"),
    KeyFormat("torchvision or timm", r"layer\d+\.\d+\.conv1 (\S*downsample\.\d+)? "),
)
UNKNOWN = KeyFormat("unknown by name, told from its structure", "")


def detect_key_format(branch: str, shortcut: str, head: str) -> KeyFormat:
    """Tell whose names these are: of a block's first convolution, of a projection (or nothing), of the head."""
    said = f"{branch} {shortcut} {head}"
    return next((layout for layout in LAYOUTS if re.search(layout.pattern, said)), UNKNOWN)
