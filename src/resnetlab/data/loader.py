"""Order is a function: which sample stands where, and how it is augmented, follows from (seed, epoch, position)."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from resnetlab.config import ConfigError, Preprocessing, Recipe
from resnetlab.data.augment import normalise, random_crop, random_flip
from resnetlab.data.sources import Split

DRAWS = 3
"""Random numbers a training image may use: crop down, crop across, flip."""


def generator(seed: int, *purpose: str | int) -> Generator:
    """Return a CPU generator for one purpose of one run; different purposes never share random numbers."""
    text = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest) >> 1)


def sample_order(seed: int, epoch: int, num_samples: int) -> Tensor:
    """Return the sample that stands at each position of an epoch: int64, shape (num_samples,), a permutation."""
    return torch.randperm(num_samples, generator=generator(seed, "order", epoch))


def draws(seed: int, epoch: int, num_samples: int) -> Tensor:
    """Return the random numbers of each position of an epoch: uniform in [0, 1), shape (num_samples, DRAWS)."""
    return torch.rand(num_samples, DRAWS, generator=generator(seed, "augment", epoch))


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Return how many whole batches an epoch has; the remainder, other samples in each epoch, sits out.

    Raises:
        ConfigError: where there is not even one.
    """
    if num_samples < batch_size:
        raise ConfigError(
            f"batch size {batch_size} is larger than the training set of {num_samples} images; "
            f"use at most {num_samples}"
        )
    return num_samples // batch_size


def train_batches(
    split: Split, preprocessing: Preprocessing, recipe: Recipe, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield an epoch's batches, in order, where the split lives: float images (batch, c, h, w), labels (batch,)."""
    device = split.labels.device
    order = sample_order(seed, epoch, len(split)).to(device)
    chance = draws(seed, epoch, len(split)).to(device)
    for step in range(steps_per_epoch(len(split), recipe.batch_size)):
        positions = slice(step * recipe.batch_size, (step + 1) * recipe.batch_size)
        samples = order[positions]
        images = normalise(split.images[samples], preprocessing)
        if recipe.crop_padding:
            images = random_crop(images, recipe.crop_padding, chance[positions, :2])
        if recipe.flip:
            images = random_flip(images, chance[positions, 2])
        yield images.contiguous(memory_format=torch.channels_last), split.labels[samples]


def eval_batches(split: Split, preprocessing: Preprocessing, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every sample of a split once, in its own order, without augmentation."""
    for start in range(0, len(split), batch_size):
        images = normalise(split.images[start : start + batch_size], preprocessing)
        yield images.contiguous(memory_format=torch.channels_last), split.labels[start : start + batch_size]
