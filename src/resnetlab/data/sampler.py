"""The order of samples in an epoch: a pure function of (seed, epoch) and of the shard of each sample."""

import torch
from torch import Tensor

from resnetlab.data.dataset import Split
from resnetlab.data.rng import make_generator

SHUFFLE_WINDOW = 4
"""Number of shards whose samples are shuffled together, where shards are read one after the other."""


def sample_order(seed: int, epoch: int, num_samples: int) -> Tensor:
    """Return the sample at each position of an epoch: a permutation, int64 of shape (num_samples,)."""
    return torch.randperm(num_samples, generator=make_generator(seed, "order", epoch))


def epoch_order(split: Split, seed: int, epoch: int) -> Tensor:
    """Return the sample of a split at each position of an epoch: a permutation, int64 of shape (num_samples,).

    Without shards this is `sample_order`. With `split.shards`, each shard must be read as a whole: the shards come in a
    random order, and samples are shuffled within each window of `SHUFFLE_WINDOW` shards.
    """
    if split.shards is None:
        return sample_order(seed, epoch, len(split))
    rng = make_generator(seed, "order", epoch)
    by_shard = torch.argsort(split.shards, stable=True)
    counts = torch.unique(split.shards, return_counts=True)[1]
    members = by_shard.split(counts.tolist())
    shard_order = torch.randperm(len(members), generator=rng)
    windows = [torch.cat([members[shard] for shard in window]) for window in shard_order.split(SHUFFLE_WINDOW)]
    return torch.cat([window[torch.randperm(len(window), generator=rng)] for window in windows])
