"""Key formats of published repositories, and the conventions of their networks that weights do not show."""

import re
from dataclasses import dataclass
from typing import Literal

from resnetlab.config import ResizeRule

ZeroChannels = Literal["append", "split"]
"""Position of option A's zero channels: all behind the others, or half in front and half behind."""


@dataclass(frozen=True)
class KeyFormat:
    """A naming scheme of state-dict keys, and the conventions of the repository that uses it."""

    name: str
    pattern: str
    """Regular expression over `<first convolution of a block> <shortcut, or nothing> <head>`."""
    zero_channels: ZeroChannels | None = None
    """Position of the zero channels in the repository's option A, if it has one."""
    bottleneck_stride: Literal["1x1", "3x3"] = "3x3"
    resize_rule: ResizeRule = "resnetlab"
    """The rule by which the repository resizes photographs for its networks with a 7x7 stem."""


KEY_FORMATS: tuple[KeyFormat, ...] = (
    KeyFormat("Hugging Face transformers", r"stages\.\d+\.layers\.\d+\.layer\.\d+\.convolution "),
    KeyFormat("weiaicunzai's pytorch-cifar100", r"conv\d_x\.\d+\.residual_function\.\d+ "),
    KeyFormat("D-X-Y's ResNeXt-DenseNet", r"stage_\d+\.\d+\.conv(_1x1)?_a ", zero_channels="append"),
    KeyFormat("pytorchcv", r"stage\d+\.unit\d+\.body\.conv1\.conv ", bottleneck_stride="1x1"),
    KeyFormat("Detectron2", r"res\d+\.\d+\.conv1 (\S*shortcut)? ", bottleneck_stride="1x1"),
    KeyFormat("akamaster's pytorch_resnet_cifar10", r"layer\d+\.\d+\.\w*conv1  \S*linear$", zero_channels="split"),
    KeyFormat("kuangliu's pytorch-cifar", r"layer\d+\.\d+\.conv1 \S*shortcut\.\d+ \S*linear$"),
    KeyFormat("torchvision or timm", r"layer\d+\.\d+\.conv1 (\S*downsample\.\d+)? ", resize_rule="torchvision"),
)
UNKNOWN_FORMAT = KeyFormat("unknown; inferred from the structure", "")


def detect_key_format(branch: str, shortcut: str, head: str) -> KeyFormat:
    """Return the key format of three layer names: a block's first convolution, a projection or "", and the head."""
    names = f"{branch} {shortcut} {head}"
    return next((known for known in KEY_FORMATS if re.search(known.pattern, names)), UNKNOWN_FORMAT)
