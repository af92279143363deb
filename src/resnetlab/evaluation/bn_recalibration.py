"""Recalibration of batch-normalisation statistics on training images, as the authors did before testing.

Paper: the authors' release notes: statistics are averages over a large training batch, not moving averages.
"""

import torch
from torch import nn

from resnetlab.config import ConfigError, Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.data.loader import sample_images
from resnetlab.data.sampler import epoch_order
from resnetlab.system.tf32 import float32_products

MAX_IMAGES = 8192
"""Maximum number of training images; the same images in every call."""
BATCH_SIZE = 256
"""Images in a forward pass; the means and variances of the batches are averaged."""


@torch.no_grad()
@float32_products(tf32=False)
def recalibrate_bn(model: nn.Module, train: Split, preprocessing: Preprocessing, *, workers: int = 0) -> int:
    """Replace every running mean and variance by the average over batches of training images without augmentation.

    Weights and the mode of the network do not change.

    Returns:
        The number of images used.

    Raises:
        ConfigError: if the network has no batch normalisation, or there are fewer than 2 training images.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not layers:
        raise ConfigError("the network has no batch normalisation to recalibrate")
    if len(train) < 2:
        raise ConfigError("batch-normalisation statistics need at least 2 training images")
    samples = epoch_order(train, 0, 0)[:MAX_IMAGES]
    saved = [(layer.momentum, layer.training) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # PyTorch averages all batches equally
        layer.train()
    batch_size = min(BATCH_SIZE, len(samples))
    num_images = len(samples) // batch_size * batch_size
    try:
        for batch in samples[:num_images].split(batch_size):
            images, _ = sample_images(train.subset(batch), preprocessing, batch_size, workers=workers)
            model(images)
    finally:
        for layer, (momentum, training) in zip(layers, saved, strict=True):
            layer.momentum = momentum
            layer.train(training)
    return num_images
