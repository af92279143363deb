"""Batch normalisation folded into the convolution before it: the same function with fewer layers."""

import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from resnetlab.models.resnet import ResNet


def fuse_bn(model: ResNet) -> ResNet:
    """Return a copy in evaluation mode whose batch normalisations are identities.

    Weights are multiplied in float64 and rounded once, so logits differ in their last digits only. A network without
    batch normalisation is only copied. BN that does not follow a convolution stays, as after an addition.
    """
    result = copy.deepcopy(model).eval()
    names = {module: name for name, module in result.named_modules()}
    for conv, norm in _conv_norm_pairs(result):
        if isinstance(norm, nn.BatchNorm2d):
            _fold(conv, norm)
            parent, _, child = names[norm].rpartition(".")
            setattr(result.get_submodule(parent), child, nn.Identity())
    return result


def _conv_norm_pairs(model: ResNet) -> Iterator[tuple[nn.Conv2d, nn.Module]]:
    """Yield each convolution with the layer behind it."""
    yield from model.stem_layers.values()
    for block in model.blocks:
        yield from block.conv_layers()
        if isinstance(block.downsample, nn.Sequential):
            conv, norm = block.downsample
            assert isinstance(conv, nn.Conv2d)
            yield conv, norm


@torch.no_grad()
def _fold(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> None:
    """Fold a batch normalisation into its convolution, in place."""
    double = [
        None if x is None else x.double()
        for x in (conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    ]
    weight, bias, mean, var, scale, shift = double
    weight, bias = fuse_conv_bn_weights(weight, bias, mean, var, bn.eps, scale, shift)  # pyright: ignore[reportArgumentType]
    dtype = conv.weight.dtype
    conv.weight, conv.bias = nn.Parameter(weight.to(dtype)), nn.Parameter(bias.to(dtype))
