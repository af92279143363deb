"""The input of the first batch normalisation for any mean, deviation and channel order, from one pass over the images.

The first convolution is linear. The mean and the variance of its outputs follow from the mean and the covariance of the
patches that it reads, and so do those for any other normalisation of the pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.evaluation.self_check.bn_agreement import ChannelMoments
from resnetlab.evaluation.self_check.training_views import TrainingView

CHUNK_VALUES = 1 << 24
"""Values of unfolded patches that are held at a time: 64 MiB."""


@dataclass(frozen=True)
class PatchMoments:
    """First and second moments of the patches of images, and of the mask of pixels that are not border."""

    mean: Tensor
    """float64 of shape (values,), values = (channels + 1) x kernel x kernel; the mask is the last channel."""
    covariance: Tensor
    """float64 of shape (values, values)."""

    @classmethod
    def of(cls, view: TrainingView, conv: nn.Conv2d) -> "PatchMoments":
        """Return the moments of the patches that a convolution reads."""
        images = torch.cat([view.pixels, view.inside], 1)
        kernel, stride = int(conv.kernel_size[0]), int(conv.stride[0])
        values = images.shape[1] * kernel**2
        positions = (images.shape[2] // stride) * (images.shape[3] // stride)
        total = torch.zeros(values, dtype=torch.float64)
        products = torch.zeros(values, values, dtype=torch.float64)
        count = 0
        for chunk in images.split(max(1, CHUNK_VALUES // (values * max(1, positions)))):
            patches = F.unfold(chunk, kernel, padding=kernel // 2, stride=stride).transpose(1, 2).flatten(0, 1)
            total += patches.sum(0, dtype=torch.float64)
            products += (patches.T @ patches).double()
            count += len(patches)
        mean = total / count
        return cls(mean, products / count - torch.outer(mean, mean))

    def conv_moments(
        self, conv: nn.Conv2d, mean: Sequence[float], std: Sequence[float], *, bgr: bool
    ) -> ChannelMoments:
        """Return the moments of a convolution's outputs for normalised pixels.

        Args:
            conv: The first convolution.
            mean: Of each channel of the images, for values from 0 to 1.
            std: Deviation by which they are divided.
            bgr: Whether the network reads the channels in reverse order.
        """
        weight = conv.weight.detach().double().cpu()
        weight = weight.flip(1) if bgr else weight
        scaled = weight / torch.tensor(std, dtype=torch.float64).view(1, -1, 1, 1)
        offset = -(scaled * torch.tensor(mean, dtype=torch.float64).view(1, -1, 1, 1)).sum(1, keepdim=True)
        kernels = torch.cat([scaled, offset], 1).flatten(1)
        variance = ((kernels @ self.covariance) * kernels).sum(1).clamp(min=0)
        return ChannelMoments(kernels @ self.mean, variance)
