"""A deeper network that computes the same function: identity blocks are appended to each stage.

Paper: section 1. "There exists a solution by construction to the deeper model: the added layers are identity mapping,
and the other layers are copied from the learned shallower model." So depth alone need never make a network worse.
"""

import copy
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from resnetlab.config import ConfigError, ModelConfig
from resnetlab.models.block_registry import BLOCKS
from resnetlab.models.blocks import Block
from resnetlab.models.evaluation_mode import evaluation_mode
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import IMAGENET, VARIANTS, blocks_per_stage, find_name, model_config
from resnetlab.serialization import check, check_type

CALIBRATION_IMAGES = 256
"""Images of a calibration batch, if `CALIBRATION_PIXELS` allows."""
CALIBRATION_PIXELS = 1 << 22
"""Most pixels of a calibration batch: 256 images of 128x128, 83 of 224x224. One forward pass takes the whole batch."""

Moments = tuple[Tensor, Tensor]
"""Biased variance and mean of each channel, over all images and positions of a batch; each of shape (channels,)."""


def deepen(
    model: ResNet, to: int | Sequence[int], *, images: Tensor | None = None, generator: Generator | None = None
) -> ResNet:
    """Return a deeper network that computes the same function; the given network stays unchanged.

    The result is a copy with every weight and key in place, and with identity blocks behind the last block of each
    stage. Blocks read the output of a ReLU, which is never negative, so their own last ReLU changes nothing.

    - Options A and B (`pad`, `project`): the shortcut is the identity. F = 0, since scale and shift of its last BN are
      0 (its last convolution with `norm="none"`). Logits are bit-identical in evaluation and in training mode. The
      other weights of F are drawn as usual, and all of them learn from the second step on.
    - Plain (`none`): every convolution and BN of the block passes each channel on. Option C (`project_all`): F = 0, and
      the projection and its BN pass each channel on.

    Where BN passes channels on (`needs_calibration`), evaluation mode gives bit-identical logits on a device that
    convolves in full fp32. In training mode BN normalises with the batch's mean and deviation, so it passes a batch on
    only if shift and scale equal these two. With `images`, they are set to the statistics of that batch. Then training
    mode computes the same on this batch, and evaluation mode on every image, both up to rounding. On another batch,
    training mode differs by the difference between the statistics of the two batches. A channel that was constant on
    `images` comes out as nearly that constant. Without `images`, shift and scale are 0 and 1, and training mode
    computes another function. With `norm="none"` both modes are exact.

    A registered block must fit `Block`'s contract; `max_difference` measures whether the construction holds.

    Args:
        model: Trained or untrained; the result has its device, dtype and mode.
        to: Depth in layers, or the blocks of each stage; see `deeper_config`.
        images: The batch on which BN is calibrated where needed: float images (batch, in_channels, height, width),
            normalised as the model expects, on its device. Use at least a training batch.
        generator: Draws the other weights of F; PyTorch's global generator if `None`.

    Raises:
        ConfigError: as `deeper_config`; or if a plain block has a convolution that cannot pass its input on.
    """
    check_type("model", model, ResNet, example="resnetlab.build_model('resnet20')")
    config = deeper_config(model.config, to)
    moments = stage_moments(model, images) if images is not None and needs_calibration(config) else {}
    deeper = copy.deepcopy(model)
    deeper.config = config
    drawn = ResNet(config, generator).to(model.fc.weight).train(model.training)
    for name, stage in deeper.stages.items():
        for block in list(drawn.stages[name])[len(stage) :]:
            assert isinstance(block, Block)
            make_identity(block, moments.get(name))
            stage.append(block)
    deeper.number_blocks()
    return deeper


def num_calibration_images(image_size: int) -> int:
    """Return how many images of `image_size` pixels a side make a calibration batch that fits a laptop's memory."""
    return max(2, min(CALIBRATION_IMAGES, CALIBRATION_PIXELS // image_size**2))


def needs_calibration(config: ModelConfig) -> bool:
    """Return whether identity blocks pass their input through BN, so that training mode depends on the batch."""
    passes_on = config.shortcut in ("none", "project_all") or BLOCKS[config.block].normalises_sum
    return config.norm == "batch" and passes_on


@torch.no_grad()
def max_difference(model: nn.Module, deeper: nn.Module, images: Tensor) -> float:
    """Return the largest absolute difference of two networks' logits in evaluation mode; restore their modes."""
    with evaluation_mode(model, deeper):
        return float((model(images) - deeper(images)).abs().max())


def deeper_config(config: ModelConfig, to: int | Sequence[int]) -> ModelConfig:
    """Return the configuration of a deeper network, from its depth in layers or the blocks of each stage.

    A depth determines the blocks of two families: three stages of n blocks each have 6n+2 layers (9n+2 with
    bottlenecks), and Table 1 lists the ImageNet networks (18 to 34; 50 to 101 and 152). The name follows the depth:
    plain20 becomes plain56.

    Raises:
        ConfigError: if the depth does not fit or is not larger; if a stage would lose blocks; for a plain network whose
            block expands its channels (a bottleneck): it squeezes 4c channels through c and cannot be the identity.
    """
    expansion = config.expansion
    check(
        config.shortcut != "none" or expansion == 1,
        f"a plain {config.block} cannot be the identity: it squeezes {expansion}c channels through c; "
        "deepen a residual network, or a plain network of basic blocks",
    )
    obstacle = BLOCKS[config.block].identity_obstacle(config)
    kind = "plain " if config.shortcut == "none" else ""
    check(obstacle is None, f"a {kind}{config.block} block cannot be the identity: {obstacle}")
    name, old = config.name, config.stage_blocks
    new = _blocks_of_depth(config, to) if isinstance(to, int) else tuple(to)
    check(
        len(new) == len(old),
        f"{_join(new)} are the blocks of {len(new)} stages, and {name} has {len(old)}; give {len(old)} numbers",
    )
    for stage, (before, after) in enumerate(zip(old, new, strict=True), start=1):
        check(after >= before, f"stage {stage} of {name} has {before} blocks; give {before} or more, not {after}")
    check(new != old, f"{name} has {config.depth} layers already; give a stage more blocks than {_join(old)}")
    deeper = replace(config, stage_blocks=new)
    return replace(deeper, name=_deeper_name(deeper))


@torch.no_grad()
def stage_moments(model: ResNet, images: Tensor) -> dict[str, Moments]:
    """Measure the map after each stage on a batch in training mode; a copy runs, so no running statistics move.

    Every identity block at the end of a stage reads this map, since the blocks before it pass it on.
    """
    maps = copy.deepcopy(model).train().features(images)
    return {name: torch.var_mean(x, (0, 2, 3), correction=0) for name, x in maps.items()}


@torch.no_grad()
def make_identity(block: Block, moments: Moments | None = None) -> None:
    """Make a new block of stride 1, with as many output as input channels, the identity for inputs of at least 0.

    `moments` are the statistics of the block's input; BN is calibrated with them for training mode.

    Raises:
        ConfigError: if the block is plain and one of its convolutions changes the number of channels.
    """
    if block.downsample is None:
        for conv, norm in block.conv_layers():
            _pass_channels_on(conv, norm, moments)
    else:
        block.zero_residual()
    if block.norm_after_addition is not None:
        _pass_norm_on(block.norm_after_addition, moments)
    if isinstance(block.downsample, nn.Sequential):
        projection, norm = block.downsample
        assert isinstance(projection, nn.Conv2d)
        _pass_channels_on(projection, norm, moments)


def _pass_channels_on(conv: nn.Conv2d, norm: nn.Module, moments: Moments | None) -> None:
    """Make a convolution and the BN behind it the identity; a bias is 0 from the initialisation."""
    inputs, outputs = conv.in_channels, conv.out_channels
    check(inputs == outputs, f"a convolution from {inputs} to {outputs} channels cannot be the identity")
    nn.init.dirac_(conv.weight, conv.groups)
    _pass_norm_on(norm, moments)


def _pass_norm_on(norm: nn.Module, moments: Moments | None) -> None:
    """Make a BN the identity."""
    if not isinstance(norm, nn.BatchNorm2d):
        return
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if moments is None:
        norm.running_var.fill_(1 - norm.eps)  # var + eps is then 1, exactly, in fp32 and in fp64
        return
    var, mean = moments
    norm.running_var.copy_(var)  # biased, as training mode divides by it: the scale must fit both modes
    norm.running_mean.copy_(mean)
    norm.weight.copy_((var + norm.eps).sqrt())
    norm.bias.copy_(mean)


def _blocks_of_depth(config: ModelConfig, depth: int) -> tuple[int, ...]:
    """Return the blocks of each stage of the deeper network of `depth` layers in the family of `config`."""
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
        f"{name} has {_join(blocks)} blocks, and no rule derives those of {depth} layers; give the blocks of each stage"
    )


def _deeper_name(config: ModelConfig) -> str:
    """Return the catalogue name of such layers, else `custom`; a name outside the catalogue stays."""
    if config.name in VARIANTS or config.name.startswith("wrn"):
        return find_name(config)
    suffix = "" if config.block in ("basic", "bottleneck") else f"-{config.block}"
    base = config.name.removesuffix(suffix)
    old = re.fullmatch(r"(resnet|plain)\d+(-cifar)?(-v1)?", base)
    if old is None:
        return config.name
    suffix = suffix if suffix and config.name.endswith(suffix) else ""
    for kind in ("", "-v1", "-cifar", "-cifar-v1"):
        with suppress(ConfigError):
            same = model_config(f"{old[1]}{config.depth}{kind}{suffix}", block=config.block)
            if (same.stage_blocks, same.bottleneck_stride) == (config.stage_blocks, config.bottleneck_stride):
                return same.name
    return "custom"


def _join(blocks: Sequence[int]) -> str:
    return " ".join(map(str, blocks))
