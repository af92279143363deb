"""The order of an epoch: a pure function of (seed, epoch) and of where the samples lie."""

import torch
from torch import Tensor

from resnetlab.data.dataset import Split
from resnetlab.data.rng import make_generator

WINDOW = 4
"""Shards among which samples are mixed, where shards are read one after the other."""


def sample_order(seed: int, epoch: int, num_samples: int) -> Tensor:
    """Return the sample that stands at each position of an epoch: int64, shape (num_samples,), a permutation."""
    return torch.randperm(num_samples, generator=make_generator(seed, "order", epoch))


def epoch_order(split: Split, seed: int, epoch: int) -> Tensor:
    """Return which sample of a split stands at each position of an epoch: int64, shape (num_samples,), a permutation.

    Of samples that can be read anywhere it is `sample_order`. Where shards have to be read whole (`split.shards`), they
    come in a random order, and samples are mixed within each `WINDOW` of them.
    """
    if split.shards is None:
        return sample_order(seed, epoch, len(split))
    chance = make_generator(seed, "order", epoch)
    by_shard = torch.argsort(split.shards, stable=True)
    counts = torch.unique(split.shards, return_counts=True)[1]
    members = by_shard.split(counts.tolist())
    turn = torch.randperm(len(members), generator=chance)
    windows = [torch.cat([members[number] for number in some]) for some in turn.split(WINDOW)]
    return torch.cat([window[torch.randperm(len(window), generator=chance)] for window in windows])
