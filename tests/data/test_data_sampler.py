"""With shards, an epoch is a permutation within windows of shards, determined by seed and epoch."""

import torch

from resnetlab.data.dataset import Split
from resnetlab.data.sampler import SHUFFLE_WINDOW, epoch_order, sample_order

SHARDS = torch.arange(23).repeat_interleave(torch.arange(1, 24))
COUNT = len(SHARDS)


def split(shards: torch.Tensor | None = SHARDS):
    return Split(torch.zeros(COUNT, 1, 1, 1, dtype=torch.uint8), torch.zeros(COUNT, dtype=torch.int64), shards=shards)


def test_epoch_order_is_a_permutation_determined_by_seed_and_epoch():
    order = epoch_order(split(), 3, 4)
    assert torch.equal(order.sort().values, torch.arange(COUNT))
    assert torch.equal(order, epoch_order(split(), 3, 4))
    assert not torch.equal(order, epoch_order(split(), 3, 5))
    assert not torch.equal(order, epoch_order(split(), 4, 4))


def test_a_window_of_shards_ends_before_the_next_starts():
    shards = SHARDS[epoch_order(split(), 0, 0)].tolist()
    last = {shard: max(at for at, other in enumerate(shards) if other == shard) for shard in set(shards)}
    first = {shard: shards.index(shard) for shard in set(shards)}
    for shard in set(shards):
        ended = sum(end < first[shard] for end in last.values())
        started = sum(start < first[shard] for start in first.values())
        assert started - ended < SHUFFLE_WINDOW
    assert shards[:8] != sorted(shards[:8])


def test_the_order_of_shards_changes_with_the_epoch():
    first_shards = [SHARDS[epoch_order(split(), 0, epoch)][0].item() for epoch in range(8)]
    assert len(set(first_shards)) > 3


def test_without_shards_the_epoch_order_is_the_sample_order():
    assert torch.equal(epoch_order(split(None), 1, 2), sample_order(1, 2, COUNT))
