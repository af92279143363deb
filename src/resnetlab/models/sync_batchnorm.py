"""Batch normalisation over the whole batch when several processes each hold a part of it.

PyTorch's `SyncBatchNorm` does this on GPUs only. This one works on every device, and with parts of different sizes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnetlab.serialization import ConfigError


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


class _SyncedBatchNorm(_BatchNorm):
    """Normalisation by mean and variance of the images of all processes in training; its keys are the same."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Module
        """Normalise values (batch, channels, …); evaluation mode is that of PyTorch's class."""
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        self._check_input_dim(input)
        others, shape = (0, *range(2, input.ndim)), (1, -1, *(1 for _ in range(2, input.ndim)))
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        count = values.new_full((1,), values.numel() // values.shape[1])
        count, sums = torch.tensor_split(all_reduce_sum(torch.cat([count, values.sum(others)])), [1])
        mean = sums / count
        centred = values - mean.view(shape)
        var = all_reduce_sum(centred.square().sum(others)) / count
        self._update_running_stats(mean.detach(), var.detach(), count.detach().item())
        scale = torch.rsqrt(var + self.eps)
        if self.weight is None:  # affine=False
            return (centred * scale.view(shape)).to(input.dtype)
        scale = (self.weight * scale).view(shape)
        return (centred * scale + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _update_running_stats(self, mean: Tensor, var: Tensor, count: float) -> None:
        """Update the statistics as PyTorch does: without a `momentum`, they are the mean over all batches.

        There is no count of the batches while activation checkpointing runs a layer again.
        """
        if self.running_mean is None or self.running_var is None:  # track_running_stats=False
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
        share = self.momentum
        if share is None:
            share = 0.0 if self.num_batches_tracked is None else 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var * (count / (count - 1)), share)


class SyncedBatchNorm1d(_SyncedBatchNorm, nn.BatchNorm1d):
    """`BatchNorm1d` over the images of all processes."""


class SyncedBatchNorm2d(_SyncedBatchNorm, nn.BatchNorm2d):
    """`BatchNorm2d` over the images of all processes."""


class SyncedBatchNorm3d(_SyncedBatchNorm, nn.BatchNorm3d):
    """`BatchNorm3d` over the images of all processes."""


SYNCED: dict[type[nn.Module], type[_SyncedBatchNorm]] = {
    nn.BatchNorm1d: SyncedBatchNorm1d,
    nn.BatchNorm2d: SyncedBatchNorm2d,
    nn.BatchNorm3d: SyncedBatchNorm3d,
}


def convert_sync_batchnorm(model: nn.Module) -> None:
    """Synchronise every batch normalisation of a network, in place, over all processes.

    Parameters and running statistics stay the same tensors.

    Raises:
        ConfigError: if a layer is of another class that normalises batches.
    """
    for name, module in model.named_modules():
        if type(module) in SYNCED:
            module.__class__ = SYNCED[type(module)]  # keeps tensors and hooks
        elif isinstance(module, _BatchNorm) and not isinstance(module, _SyncedBatchNorm | nn.SyncBatchNorm):
            raise ConfigError(
                f"sync_bn cannot synchronise {type(module).__name__} ({name}); use nn.BatchNorm1d, 2d or 3d, "
                "or leave sync_bn (--sync-bn) out"
            )
