"""Batch-normalisation statistics estimated anew on a training sample, as the authors did before testing.

Paper: the authors' release notes: statistics are averages over a large training batch, not moving averages.
"""

import torch
from torch import nn

from resnetlab.config import ConfigError, Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.data.loader import sample_images
from resnetlab.data.sampler import epoch_order

IMAGES = 8192
"""Training images that statistics are estimated on, at most; the same ones each time."""
BATCH = 256
"""Images that go through the network together: each batch's mean and variance are averaged."""


@torch.no_grad()
def recalibrate_bn(model: nn.Module, train: Split, preprocessing: Preprocessing, *, workers: int = 0) -> int:
    """Replace every running mean and variance by the average over batches of training images, as evaluation sees them.

    Weights stay, and so does the mode the network is in.

    Returns:
        How many images were looked at.

    Raises:
        ConfigError: where the network has no batch normalisation, or there are fewer than 2 training images.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not layers:
        raise ConfigError("this network has no batch normalisation whose statistics could be estimated anew")
    if len(train) < 2:
        raise ConfigError("statistics need at least 2 training images")
    chosen = epoch_order(train, 0, 0)[:IMAGES]
    before = [(layer.momentum, layer.training) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # PyTorch's way to say: the plain average of all batches
        layer.train()
    batch = min(BATCH, len(chosen))
    num_images = len(chosen) // batch * batch
    try:
        for samples in chosen[:num_images].split(batch):
            images, _ = sample_images(_part(train, samples), preprocessing, batch, workers=workers)
            model(images)
    finally:
        for layer, (momentum, training) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.train(training)
    return num_images


def _part(split: Split, samples: torch.Tensor) -> Split:
    images = split.images[samples] if isinstance(split.images, torch.Tensor) else split.images.subset(samples)
    return Split(images, split.labels[samples])
