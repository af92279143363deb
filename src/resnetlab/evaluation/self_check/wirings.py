"""Networks that have the same weights and compute something else: the wirings that tensors do not determine."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.config import ModelConfig, Shortcut
from resnetlab.models.blocks import PadShortcut
from resnetlab.models.importing.convert import BN_EPSILON, append_zero_channels
from resnetlab.models.importing.key_formats import ZeroChannels
from resnetlab.models.resnet import ResNet

LARGE_EPSILON = 1e-3
"""Epsilon of batch normalisation in Keras and TensorFlow."""


@dataclass(frozen=True)
class Wiring:
    """The properties of a network that its weights do not determine."""

    shortcut: Shortcut
    """Option of the shortcuts, as in `ModelConfig`."""
    zero_channels: ZeroChannels = "append"
    """Position of option A's zero channels in the file."""
    bottleneck_stride: Literal["1x1", "3x3"] = "3x3"
    """The convolution of a bottleneck that has the stride."""
    subsampling: Literal["stride", "average"] = "stride"
    """The way in which shortcuts halve the map: every second position, or the average of 2 x 2 (as in ResNet-D)."""
    stem_pool: Literal["max", "average"] = "max"
    """Pooling behind the first convolution of an ImageNet network."""
    bn_epsilon: float = BN_EPSILON
    """Added to the variance in batch normalisation."""


def wirings_of(config: ModelConfig) -> Iterator[Wiring]:
    """Yield every wiring that fits weights of this architecture, all with PyTorch's epsilon."""
    free = config.shortcut in ("none", "pad")
    either = free and config.narrowing is None  # option A adds channels only
    shortcuts: tuple[Shortcut, ...] = ("pad", "none") if either else (config.shortcut,)
    grows = config.stem_width < config.stage_channels[-1] * config.expansion
    positions: tuple[ZeroChannels, ...] = ("append", "split") if free and grows else ("append",)
    strides = (
        ("3x3", "1x1") if config.block == "bottleneck" and len(config.stage_blocks) > 1 else (config.bottleneck_stride,)
    )
    subsamplings = ("stride", "average") if len(config.stage_blocks) > 1 else ("stride",)
    pools = ("max",) if config.stem == "cifar" else ("max", "average")
    seen = set()
    for shortcut, position, stride, subsampling, pool in product(shortcuts, positions, strides, subsamplings, pools):
        plain = shortcut == "none"
        wiring = Wiring(shortcut, "append" if plain else position, stride, "stride" if plain else subsampling, pool)
        if wiring not in seen:
            seen.add(wiring)
            yield wiring


def build_wiring(config: ModelConfig, state: Mapping[str, Tensor], wiring: Wiring) -> ResNet:
    """Return a network with these weights in this wiring, in evaluation mode.

    `state` has the channels in the order of the file. A wiring that `ResNet` does not have is patched in: such a
    network serves for comparison, and no model file can store it.
    """
    average = wiring.subsampling == "average" and wiring.shortcut in ("project", "project_all")
    config = replace(
        config,
        shortcut=wiring.shortcut,
        bottleneck_stride=wiring.bottleneck_stride,
        average_shortcut=average,
    )
    with torch.random.fork_rng(devices=[]):  # layers draw weights when built
        model = ResNet(config)
    split = wiring.shortcut == "pad" and wiring.zero_channels == "split"
    model.load_state_dict(append_zero_channels(state, config) if split else dict(state))
    if wiring.stem_pool == "average":
        model.register_module("maxpool", nn.AvgPool2d(3, 2, padding=1))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = wiring.bn_epsilon
    if wiring.subsampling == "average":
        for module in model.modules():
            if isinstance(module, PadShortcut) and module.stride == 2:
                module.stride = 1
                module.register_forward_pre_hook(lambda _, inputs: (_halve(inputs[0]),))
    return model.eval()


def _halve(maps: Tensor) -> Tensor:
    return F.avg_pool2d(maps, 2, ceil_mode=True, count_include_pad=False)
