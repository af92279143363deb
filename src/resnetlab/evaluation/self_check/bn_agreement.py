"""Distance of the inputs of batch normalisations from the statistics that they stored in training."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resnetlab.models.evaluation_mode import evaluation_mode

TINY = 1e-12
"""Added to variances, so that two dead channels (variance 0 in both) agree."""


class ChannelMoments(NamedTuple):
    """Mean and variance of each channel, float64 of shape (channels,)."""

    mean: Tensor
    variance: Tensor


def squared_hellinger(first: ChannelMoments, second: ChannelMoments) -> Tensor:
    """Return the squared Hellinger distance of two Gaussians for each channel: 0 if they are equal, at most 1.

    It is symmetric like the sum of both Kullback-Leibler divergences, and 1/8 of it for small differences. Unlike that
    sum it is bounded, so one channel of almost no variance cannot outweigh the others.

    Reference: Pardo (2005), "Statistical Inference Based on Divergence Measures", section 1.2; it is 1 minus the
    coefficient of Bhattacharyya (1943).
    """
    one, two = first.variance.double() + TINY, second.variance.double() + TINY
    total = one + two
    shift = (first.mean.double() - second.mean.double()).square() / (4 * total)
    return 1 - (2 * (one * two).sqrt() / total).sqrt() * torch.exp(-shift)


def running_moments(norm: nn.BatchNorm2d) -> ChannelMoments:
    """Return the statistics that a batch normalisation stored in training."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return ChannelMoments(norm.running_mean.double().cpu(), norm.running_var.double().cpu())


@torch.no_grad()
def bn_input_moments(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, ChannelMoments]:
    """Return the moments of each batch normalisation's input, by name, over batches of normalised images.

    The network is in evaluation mode meanwhile: each layer sees what the layers before make of their stored statistics.
    """
    totals: dict[str, Tensor] = {}

    def observe(name: str, values: Tensor) -> None:
        variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        mean, variance = mean.double().cpu(), variance.double().cpu()
        count = values.numel() / values.shape[1]
        sums = torch.stack([torch.full_like(mean, count), count * mean, count * (variance + mean.square())])
        totals[name] = totals[name] + sums if name in totals else sums

    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    hooks = [
        norm.register_forward_pre_hook(partial(lambda name, _, inputs: observe(name, inputs[0]), name))
        for name, norm in norms.items()
    ]
    try:
        with evaluation_mode(model):
            for batch in batches:
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    moments = {}
    for name, (count, total, squares) in totals.items():
        mean = total / count
        moments[name] = ChannelMoments(mean, (squares / count - mean.square()).clamp(min=0))
    return moments


def layer_distances(model: nn.Module, seen: Mapping[str, ChannelMoments]) -> dict[str, float]:
    """Return the mean squared Hellinger distance of the channels of each batch normalisation, by name."""
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    return {
        name: finite_mean(squared_hellinger(running_moments(norms[name]), moments)) for name, moments in seen.items()
    }


def finite_mean(distances: Tensor) -> float:
    """Return the mean distance of the channels; one that is no number, after an overflow, counts as the largest."""
    return float(distances.nan_to_num(nan=1.0).mean())
