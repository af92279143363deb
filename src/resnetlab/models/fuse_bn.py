"""Batch normalisation folded into the convolution before it: the same function, fewer layers."""

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from resnetlab.models.resnet import ResNet


def fuse_bn(model: ResNet) -> ResNet:
    """Return a copy, in evaluation mode, whose normalisations are identities; a network without them is just copied.

    Weights are multiplied in float64 and rounded once, so that logits differ in their last digits only.
    """
    result = copy.deepcopy(model).eval()
    for parent in list(result.modules()):
        children = list(parent.named_children())
        for (_, conv), (name, bn) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
                _fold(conv, bn)
                setattr(parent, name, nn.Identity())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.modules())
    return result


@torch.no_grad()
def _fold(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> None:
    double = [
        None if x is None else x.double()
        for x in (conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    ]
    weight, bias, mean, var, scale, shift = double
    weight, bias = fuse_conv_bn_weights(weight, bias, mean, var, bn.eps, scale, shift)  # pyright: ignore[reportArgumentType]
    dtype = conv.weight.dtype
    conv.weight, conv.bias = nn.Parameter(weight.to(dtype)), nn.Parameter(bias.to(dtype))
