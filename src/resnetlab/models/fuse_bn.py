"""Batch normalisation folded into the convolution before it: the same function with fewer layers."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from resnetlab.models.resnet import ResNet


def fuse_bn(model: ResNet) -> ResNet:
    """Return a copy in evaluation mode whose batch normalisations are identities.

    Weights are multiplied in float64 and rounded once, so logits differ in their last digits only. A network without
    batch normalisation is only copied.
    """
    result = copy.deepcopy(model).eval()
    for parent in list(result.modules()):
        layers = dict(parent.named_children())
        for name, bn in layers.items():
            if isinstance(bn, nn.BatchNorm2d):
                conv = layers["0" if name == "1" else name.replace("bn", "conv")]  # 0 and 1 in projections
                assert isinstance(conv, nn.Conv2d)
                _fold(conv, bn)
                setattr(parent, name, nn.Identity())
    return result


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
