"""Batch normalisation over the whole batch when several processes each hold a part of it.

PyTorch's `SyncBatchNorm` does this on GPUs only. This one works on every device, and with parts of different sizes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from resnetlab.models.resnet import ResNet


class AllReduceSum(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of the processes' gradients.

    Of PyTorch's own versions, one is deprecated and the other is private.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Return the sum, in every process."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the sum of the gradients, in every process."""
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def all_reduce_sum(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, differentiably."""
    return AllReduceSum.apply(values)  # pyright: ignore[reportReturnType]


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """`BatchNorm2d` with mean and variance over the images of all processes in training; the keys are the same."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Module
        """Normalise maps (batch, channels, height, width); evaluation mode is that of `BatchNorm2d`."""
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        count = values.new_full((1,), values.numel() // values.shape[1])
        count, sums = torch.tensor_split(all_reduce_sum(torch.cat([count, values.sum((0, 2, 3))])), [1])
        mean = sums / count
        centred = values - mean.view(1, -1, 1, 1)
        var = all_reduce_sum(centred.square().sum((0, 2, 3))) / count
        self._update_running_stats(mean.detach(), var.detach(), count.detach().item())
        scale = (self.weight * torch.rsqrt(var + self.eps)).view(1, -1, 1, 1)
        return (centred * scale + self.bias.view(1, -1, 1, 1)).to(input.dtype)

    @torch.no_grad()
    def _update_running_stats(self, mean: Tensor, var: Tensor, count: float) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (count / (count - 1)), self.momentum)


def convert_sync_batchnorm(model: ResNet) -> None:
    """Replace every batch normalisation of a network, in place, by one that is synchronised over all processes.

    Parameters and running statistics stay the same tensors.
    """
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is nn.BatchNorm2d:
                synced = SyncedBatchNorm2d(module.num_features, module.eps, module.momentum)
                synced.weight, synced.bias = module.weight, module.bias
                synced.running_mean, synced.running_var = module.running_mean, module.running_var
                synced.num_batches_tracked = module.num_batches_tracked
                setattr(parent, name, synced.train(module.training))
