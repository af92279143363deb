"""Logits of a network on one crop of each image of a split, in evaluation mode and fp32.

A network is a PyTorch module, which takes normalised images, or an `Engine`, which takes pixels and normalises them
itself. Both get the same pixels.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from resnetlab.config import Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.data.loader import eval_batches_with_positions
from resnetlab.inference.engines.base import Engine
from resnetlab.models.evaluation_mode import evaluation_mode
from resnetlab.system.tf32 import float32_products

MAX_PIXELS = 64 * 224 * 224
"""Maximum number of pixels in a forward pass: 64 images of 224x224."""

Network = nn.Module | Engine


def one_crop_logits(
    model: Network, split: Split, preprocessing: Preprocessing, *, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield positions, int64 (batch,), labels, and logits, float64 (batch, num_classes); all on the CPU.

    Labels are those of the split. The mode of each submodule is restored at the end.

    Paper: section 4.2, the single original view.
    """
    with network_evaluation_mode(model):
        for positions, images, labels in eval_batches_with_positions(
            split, external_preprocessing(model, preprocessing), workers=workers
        ):
            yield positions.cpu(), labels.cpu(), compute_logits(model, images)


@torch.no_grad()
@float32_products(tf32=False)
def compute_logits(model: Network, images: Tensor) -> Tensor:
    """Return the logits of a batch, float64 (batch, num_classes), on the CPU."""
    if isinstance(model, nn.Module):
        device = next((parameter.device for parameter in model.parameters()), images.device)
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        return model(images).double().cpu()
    batch_size = max(1, MAX_PIXELS // (images.shape[2] * images.shape[3]))
    batches = images.permute(0, 2, 3, 1).contiguous().cpu().split(batch_size)
    return torch.cat([torch.from_numpy(model.logits(batch.numpy())) for batch in batches]).double()


def external_preprocessing(model: Network, preprocessing: Preprocessing) -> Preprocessing | None:
    """Return the preprocessing applied before the network: `None` for an engine, which normalises images itself."""
    return preprocessing if isinstance(model, nn.Module) else None


def network_evaluation_mode(model: Network) -> AbstractContextManager[None]:
    """Return the context of a network in evaluation mode; an engine has no other mode."""
    return evaluation_mode(model) if isinstance(model, nn.Module) else nullcontext()
