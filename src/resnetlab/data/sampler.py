"""The order of samples in an epoch: a pure function of (seed, epoch), and of the shard or the class of each sample."""

import torch
from torch import Tensor

from resnetlab.config import Recipe
from resnetlab.data.dataset import Split
from resnetlab.data.rng import make_generator

SHUFFLE_WINDOW = 4
"""Number of shards whose samples are shuffled together, where shards are read one after the other."""


def sample_order(seed: int, epoch: int, num_samples: int) -> Tensor:
    """Return the sample at each position of an epoch: a permutation, int64 of shape (num_samples,)."""
    return torch.randperm(num_samples, generator=make_generator(seed, "order", epoch))


def train_order(split: Split, recipe: Recipe, *, seed: int, epoch: int) -> Tensor:
    """Return the training sample at each position of an epoch: int64, of a whole number of batches at least.

    This is `epoch_order`, or `balanced_order` if the recipe asks for it, with `Recipe.augment_repeats` copies of each
    image in a batch. Copies are a row of different images apart, so that no pair of neighbours shows one image twice
    (`mixing.py`).
    """
    is_balanced, repeats, batch_size = recipe.balanced_order, recipe.augment_repeats, recipe.batch_size
    order = balanced_order(split.labels, seed, epoch) if is_balanced else epoch_order(split, seed, epoch)
    if repeats == 1:
        return order
    num_different = -(-batch_size // repeats)
    num_batches = len(order) // batch_size
    batches = order[: num_batches * num_different].view(num_batches, num_different)
    return batches.repeat(1, repeats)[:, :batch_size].flatten()


def balanced_order(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """Return the sample at each position of an epoch that takes every class equally often: int64, (num_samples,).

    Each k positions in a row, from a multiple of k on, have one sample of each of the k classes that have samples, in
    random order. A class goes through its samples in random order, again and again, and continues in the next epoch
    where it was: so the samples of a large class all come before one of them comes twice.

    Args:
        labels: The class of each sample: int64, (num_samples,).
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
    """
    labels = labels.cpu()
    by_class = torch.argsort(labels, stable=True).split(torch.unique(labels, return_counts=True)[1].tolist())
    num_rounds = -(-len(labels) // len(by_class))
    rounds = range(epoch * num_rounds, (epoch + 1) * num_rounds)
    drawn = torch.stack([_take(members, rounds, seed, label) for label, members in enumerate(by_class)], 1)
    rng = make_generator(seed, "balanced order", epoch)
    shuffled = torch.rand(num_rounds, len(by_class), generator=rng).argsort(1)
    return drawn.gather(1, shuffled).flatten()[: len(labels)]


def _take(members: Tensor, turns: range, seed: int, number: int) -> Tensor:
    """Return the given turns of a class, counted through the run, from one random permutation of it after another."""
    size = len(members)
    first, last = turns.start // size, (turns.stop - 1) // size
    cycles = [
        torch.randperm(size, generator=make_generator(seed, "balanced order", "class", number, cycle))
        for cycle in range(first, last + 1)
    ]
    return members[torch.cat(cycles)[turns.start - first * size : turns.stop - first * size]]


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
