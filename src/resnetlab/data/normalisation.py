"""Normalisation statistics of the training split: mean and standard deviation of each channel, or a mean per pixel."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Generator, Tensor

from resnetlab.config import ConfigError, Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.data.images.decode import BadImageError

FLOAT_VALUES = 1 << 20
"""Up to this many values (images x channels x pixels), statistics are computed at once, in double precision."""
SAMPLE = 2048
"""Number of encoded images from which statistics are estimated; the error of a mean is then below 0.01."""
CHUNK = 256
"""Number of images that are processed together, which bounds memory."""


def channel_normalisation(train: Split, crop_ratio: float = 1.0, workers: int = 1) -> Preprocessing:
    """Return the preprocessing that gives each channel of the training split mean 0 and standard deviation 1.

    For encoded images, the statistics are estimated from `SAMPLE` evaluation views, selected by a fixed seed. A channel
    without variation gets standard deviation 1.

    Args:
        train: The training split.
        crop_ratio: Crop ratio of the result; encoded images use their own instead.
        workers: Number of threads that decode.

    Raises:
        ConfigError: If an encoded image cannot be decoded, or if all of them were left out.
    """
    if not isinstance(train.images, Tensor):
        size, crop_ratio = train.images.view.height, train.images.view.crop_ratio
        mean, std = _from_counts(_count_values(_sample_views(train, workers)))
    elif train.images.numel() <= FLOAT_VALUES:
        size = train.images.shape[-1]
        scaled = train.images.double() / 255
        mean = scaled.mean((0, 2, 3))
        varies = scaled.amax((0, 2, 3)) > scaled.amin((0, 2, 3))
        std = torch.where(varies, scaled.std((0, 2, 3)), 1.0)
    else:
        size = train.images.shape[-1]
        mean, std = _from_counts(_count_values(iter(train.images.split(CHUNK))))
    return Preprocessing(size, tuple(mean.tolist()), tuple(std.tolist()), crop_ratio=crop_ratio)


def pixel_normalisation(train: Split, preprocessing: Preprocessing) -> Preprocessing:
    """Return the preprocessing that subtracts the training split's mean of each pixel and has standard deviation 1.

    Means are rounded to 7 decimals, so that they survive a round trip through JSON. Paper: section 4.2.

    Raises:
        ConfigError: If the images are encoded: their pixels differ from crop to crop.
    """
    if not isinstance(train.images, Tensor):
        raise ConfigError(
            "a mean for each pixel needs images of one size that fit into memory; "
            "use --recipe imagenet-paper, which uses a mean for each channel"
        )
    total = sum(chunk.cpu().numpy().sum(0, dtype=np.int64) for chunk in train.images.split(CHUNK))
    mean = np.asarray(total) / (255 * len(train))
    pixels = tuple(round(value, 7) for value in mean.ravel().tolist())
    return replace(preprocessing, std=(1.0,) * len(preprocessing.mean), pixel_mean=pixels)


def _sample_views(train: Split, workers: int) -> Iterator[Tensor]:
    """Yield the evaluation views of up to `SAMPLE` encoded images, in chunks."""
    assert not isinstance(train.images, Tensor)
    if train.shards is None:
        selected = torch.randperm(len(train), generator=Generator().manual_seed(0))[:SAMPLE]
    else:  # the first samples are as good: packing shuffled them
        selected = torch.arange(min(len(train), SAMPLE))
    with ThreadPoolExecutor(workers) as pool:
        for samples in selected.split(CHUNK):
            try:
                yield train.images.decode_eval_views(samples, pool)[0]
            except BadImageError as error:  # its message has the image's name and --on-bad-image skip
                raise ConfigError(str(error)) from error


def _count_values(chunks: Iterator[Tensor]) -> Tensor:
    """Count how often each value occurs in each channel: int64 of shape (channels, 256), exact in any order."""
    counts = np.zeros((1, 256), np.int64)
    for images in chunks:  # NumPy: dozens of small tensor operations would each wake all of PyTorch's threads
        pixels = images.cpu().numpy()
        channels = [pixels[:, channel].ravel() for channel in range(pixels.shape[1])]
        counts = counts + np.stack([np.bincount(channel, minlength=256) for channel in channels])
    return torch.from_numpy(counts)


def _from_counts(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, in units of full scale; 1 for a channel of one value.

    The mean of such a channel may be rounded, so that its computed deviation is not exactly 0.
    """
    total = counts.sum(1)
    if int(total.min()) == 0:
        raise ConfigError("none of the training images can be decoded; list them with: resnetlab data check PATH")
    value = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * value).sum(1) / total
    variance = (counts * (value - mean[:, None]) ** 2).sum(1) / (total - 1).clamp(min=1)
    return mean, torch.where((counts > 0).sum(1) > 1, variance.sqrt(), 1.0)
