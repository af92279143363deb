"""A deeper network that computes the same: blocks that are the identity, at the end of each stage.

Paper: section 1. "There exists a solution by construction to the deeper model: the added layers are identity mapping,
and the other layers are copied from the learned shallower model." So depth alone need never make a network worse.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from resnetlab.config import ConfigError, ModelConfig
from resnetlab.models.blocks import BasicBlock, Bottleneck
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import IMAGENET, blocks_per_stage, model_config
from resnetlab.serialization import check

CALIBRATION = 256
"""Images to calibrate on, where `CALIBRATION_PIXELS` allows."""
CALIBRATION_PIXELS = 1 << 22
"""Pixels of them all: 256 images of 128x128, 83 of 224x224. They go through the network together."""

Moments = tuple[Tensor, Tensor]
"""Variance (biased) and mean of each channel over the positions of all images of a batch."""


def deepen(
    model: ResNet, to: int | Sequence[int], *, images: Tensor | None = None, generator: Generator | None = None
) -> ResNet:
    """Return a deeper network that computes the same function; the given one stays as it is.

    It is a copy, every weight and key in its place, with blocks that are the identity after the last of each stage.
    Blocks read what a ReLU gave, which is never negative, so the ReLU at their own end changes nothing.

    - Options A and B (`pad`, `project`): the shortcut is the identity, and F = 0 since scale and shift of its last BN
      are (its last convolution, with `norm="none"`). Logits are the same to the last bit, in evaluation and in training
      mode. The other weights of F are drawn as usual, and all learn from the second step on.
    - Plain (`none`): both 3x3 kernels pass each channel on, and so must BN. Option C (`project_all`): F = 0, and kernel
      and BN of the shortcut pass each channel on.

    Where BN passes channels on (`needs_calibration`), evaluation mode gives the same logits to the last bit, on a
    device that convolves in full fp32. Training mode is another matter: there BN takes mean and deviation from the
    batch, and gives back what it read only if its shift and scale are these two. With `images` they are those of that
    batch; then training mode computes the same on this batch, and evaluation mode on every image, both up to rounding.
    On another batch, training mode computes the same but for the difference between the statistics of the two batches,
    and a channel that was constant on `images` comes out as that constant, near enough. Without `images` shift and
    scale are 0 and 1, and training mode computes another function. With `norm="none"` both modes are exact.

    Args:
        model: Trained or not; the result has its device, dtype and mode.
        to: Depth in layers, or the blocks of each stage; `deeper_config` says which depths fit.
        images: What BN is calibrated on where that is needed, at least a batch of what training will see: float images
            of shape (batch, in_channels, height, width), normalised as the model expects, on its device.
        generator: Draws the other weights of F; PyTorch's global one if `None`.

    Raises:
        ConfigError: as `deeper_config` does.
    """
    config = deeper_config(model.config, to)
    moments = stage_moments(model, images) if images is not None and needs_calibration(config) else {}
    deeper = copy.deepcopy(model)
    deeper.config = config
    drawn = ResNet(config, generator).to(model.fc.weight).train(model.training)
    for name, stage in deeper.stages.items():
        for block in list(drawn.stages[name])[len(stage) :]:
            make_identity(block, moments.get(name))
            stage.append(block)
    return deeper


def calibration_images(image_size: int) -> int:
    """Return how many images of so many pixels a side are enough to calibrate on, and fit in a laptop's memory."""
    return max(2, min(CALIBRATION, CALIBRATION_PIXELS // image_size**2))


def needs_calibration(config: ModelConfig) -> bool:
    """Say whether inserted blocks pass their input through BN, so that training mode is the same for a batch alone."""
    return config.norm == "batch" and config.shortcut in ("none", "project_all")


@torch.no_grad()
def max_difference(model: nn.Module, deeper: nn.Module, images: Tensor) -> float:
    """Return the largest absolute difference of two networks' logits, in evaluation mode; their modes come back."""
    with _evaluating(model, deeper):
        return float((model(images) - deeper(images)).abs().max())


def deeper_config(config: ModelConfig, to: int | Sequence[int]) -> ModelConfig:
    """Return the configuration of a deeper network, given its depth in layers or the blocks of each stage.

    A depth says the blocks where there is a rule: 6n+2 (9n+2 with bottlenecks) for three stages of n blocks each, and
    Table 1 for the ImageNet networks (18 to 34; 50 to 101 and 152). The name follows: plain20 becomes plain56.

    Raises:
        ConfigError: where the depth does not fit, or is not above what there is; where a stage would lose blocks; for a
            plain bottleneck, which squeezes 4c channels through c and so cannot be the identity.
    """
    check(
        config.shortcut != "none" or config.block != "bottleneck",
        "a plain bottleneck cannot be the identity: it squeezes 4c channels through c; deepen a residual network, or a "
        "plain one of basic blocks",
    )
    name, old = config.name, config.stage_blocks
    new = _blocks_of_depth(config, to) if isinstance(to, int) else tuple(to)
    check(
        len(new) == len(old),
        f"{_words(new)} are the blocks of {len(new)} stages, and {name} has {len(old)}; give {len(old)} numbers",
    )
    for stage, (before, after) in enumerate(zip(old, new, strict=True), start=1):
        check(after >= before, f"stage {stage} of {name} has {before} blocks; give {before} or more, not {after}")
    check(new != old, f"{name} has {config.depth} layers already; give a stage more blocks than {_words(old)}")
    deeper = replace(config, stage_blocks=new)
    return replace(deeper, name=_label(deeper))


@torch.no_grad()
def stage_moments(model: ResNet, images: Tensor) -> dict[str, Moments]:
    """Measure the map after each stage on a batch in training mode; the running statistics that move are a copy's.

    Every layer inserted at the end of a stage reads this map, since those before it pass it on.
    """
    maps = copy.deepcopy(model).train().features(images)
    return {name: torch.var_mean(x, (0, 2, 3), correction=0) for name, x in maps.items()}


@torch.no_grad()
def make_identity(block: nn.Module, moments: Moments | None = None) -> None:
    """Make a freshly drawn block, of stride 1 and as many channels out as in, the identity for inputs of at least 0.

    `moments` are those of its input, for BN in training mode.
    """
    assert isinstance(block, BasicBlock | Bottleneck)
    if block.downsample is None:
        assert isinstance(block, BasicBlock)
        _pass_on(block.conv1, block.bn1, moments)
        _pass_on(block.conv2, block.bn2, moments)
        return
    conv, bn = (block.conv2, block.bn2) if isinstance(block, BasicBlock) else (block.conv3, block.bn3)
    for parameter in (bn if isinstance(bn, nn.BatchNorm2d) else conv).parameters():
        nn.init.zeros_(parameter)
    if isinstance(block.downsample, nn.Sequential):
        projection, bn = block.downsample
        _pass_on(projection, bn, moments)


def _pass_on(conv: nn.Module, bn: nn.Module, moments: Moments | None) -> None:
    """Make a convolution and the BN after it the identity; a bias is 0 as drawn."""
    assert isinstance(conv, nn.Conv2d)
    nn.init.dirac_(conv.weight)
    if not isinstance(bn, nn.BatchNorm2d):
        return
    assert bn.running_mean is not None
    assert bn.running_var is not None
    if moments is None:
        bn.running_var.fill_(1 - bn.eps)  # var + eps is then 1, exactly, in fp32 and in fp64
        return
    var, mean = moments
    bn.running_var.copy_(var)  # biased, as training mode divides by it: the scale must fit both modes
    bn.running_mean.copy_(mean)
    bn.weight.copy_((var + bn.eps).sqrt())
    bn.bias.copy_(mean)


def _blocks_of_depth(config: ModelConfig, depth: int) -> tuple[int, ...]:
    name, blocks = config.name, config.stage_blocks
    check(depth > config.depth, f"{name} has {config.depth} layers already; give a depth above that, not {depth}")
    if (config.block, blocks) in IMAGENET.values():
        deeper = {d: row for d, (block, row) in IMAGENET.items() if block == config.block and d > config.depth}
        known = f"{' and '.join(map(str, deeper))} layers" if deeper else "nothing deeper"
        check(
            depth in deeper,
            f"depth {depth} does not fit {name}: with {config.block} blocks Table 1 has {known}; or give the blocks of "
            "each stage",
        )
        return deeper[depth]
    if len(blocks) == 3 and len(set(blocks)) == 1:
        return (blocks_per_stage(depth, config.block),) * 3
    raise ConfigError(
        f"{name} has {_words(blocks)} blocks, for which no rule says what {depth} layers are; give the blocks of each "
        "stage"
    )


def _label(config: ModelConfig) -> str:
    """Return what the catalogue calls such layers, else `custom`; a label that is no catalogue name stays."""
    old = re.fullmatch(r"(resnet|plain)\d+(-cifar)?(-v1)?", config.name)
    if old is None:
        return config.name
    for suffix in ("", "-v1", "-cifar", "-cifar-v1"):
        with suppress(ConfigError):
            same = model_config(f"{old[1]}{config.depth}{suffix}", block=config.block)
            if (same.stage_blocks, same.bottleneck_stride) == (config.stage_blocks, config.bottleneck_stride):
                return same.name
    return "custom"


def _words(blocks: Sequence[int]) -> str:
    return " ".join(map(str, blocks))


@contextmanager
def _evaluating(*networks: nn.Module) -> Iterator[None]:
    """Put networks into evaluation mode for a while; each module's own mode comes back."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode
