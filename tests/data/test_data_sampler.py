"""Where shards are read one after the other, an epoch stays within windows of them, and is drawn all the same."""

import torch

from resnetlab.data.dataset import Split
from resnetlab.data.sampler import WINDOW, epoch_order, sample_order

SHARDS = torch.arange(23).repeat_interleave(torch.arange(1, 24))
COUNT = len(SHARDS)


def split(shards: torch.Tensor | None = SHARDS):
    return Split(torch.zeros(COUNT, 1, 1, 1, dtype=torch.uint8), torch.zeros(COUNT, dtype=torch.int64), (), shards)


def test_every_sample_stands_once_and_seed_and_epoch_decide():
    order = epoch_order(split(), 3, 4)
    assert torch.equal(order.sort().values, torch.arange(COUNT))
    assert torch.equal(order, epoch_order(split(), 3, 4))
    assert not torch.equal(order, epoch_order(split(), 3, 5))
    assert not torch.equal(order, epoch_order(split(), 4, 4))


def test_a_window_of_shards_is_done_before_the_next_begins():
    found = SHARDS[epoch_order(split(), 0, 0)].tolist()
    ends = {shard: max(at for at, one in enumerate(found) if one == shard) for shard in set(found)}
    firsts = {shard: found.index(shard) for shard in set(found)}
    for shard in set(found):
        done_before = sum(end < firsts[shard] for end in ends.values())
        begun_before = sum(first < firsts[shard] for first in firsts.values())
        assert begun_before - done_before < WINDOW
    assert found[:8] != sorted(found[:8])


def test_shards_come_in_another_turn_each_epoch():
    turns = [SHARDS[epoch_order(split(), 0, epoch)][0].item() for epoch in range(8)]
    assert len(set(turns)) > 3


def test_without_shards_it_is_the_order_of_samples():
    assert torch.equal(epoch_order(split(None), 1, 2), sample_order(1, 2, COUNT))
