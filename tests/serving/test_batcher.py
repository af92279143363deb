"""`DynamicBatcher`: batch sizes, order, waiting for items in flight, threads."""

import threading
import time

import pytest

from resnetlab.serving.batcher import DynamicBatcher

NEVER_S = 30.0
"""A `max_wait_s` that would make a test fail: after it an item in flight arrives."""


def put(batcher: DynamicBatcher[int], *items: int) -> None:
    for item in items:
        with batcher.reserve():
            batcher.put(item)


def put_later(
    batcher: DynamicBatcher[int], item: int | None, delay_s: float, arrives: threading.Event | None = None
) -> threading.Thread:
    """Reserve now, and put the item (or drop it, for `None`) after a delay, or when the event says so if earlier."""
    reservation = batcher.reserve()

    def put_item() -> None:
        (arrives or threading.Event()).wait(delay_s)
        with reservation:
            if item is not None:
                batcher.put(item)

    thread = threading.Thread(target=put_item)
    thread.start()
    return thread


def test_a_single_item_does_not_wait():
    batcher = DynamicBatcher[int](16, NEVER_S)
    start = time.monotonic()
    put(batcher, 1)
    assert batcher.get_batch() == [1]
    assert time.monotonic() - start < NEVER_S / 2


def test_batches_preserve_order_and_respect_max_batch():
    batcher = DynamicBatcher[int](4, NEVER_S)
    put(batcher, *range(10))
    assert [batcher.get_batch() for _ in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_batch_waits_for_items_in_flight():
    batcher = DynamicBatcher[int](16, NEVER_S)
    threads = [put_later(batcher, item, item / 50) for item in (1, 2, 3)]
    put(batcher, 0)
    assert sorted(batcher.get_batch()) == [0, 1, 2, 3]
    for thread in threads:
        thread.join()


def test_a_full_batch_does_not_wait():
    batcher, arrives = DynamicBatcher[int](2, NEVER_S), threading.Event()
    thread = put_later(batcher, 9, NEVER_S, arrives)
    put(batcher, 1, 2)
    start = time.monotonic()
    assert batcher.get_batch() == [1, 2]
    assert time.monotonic() - start < NEVER_S / 2
    arrives.set()
    thread.join()
    assert batcher.get_batch() == [9]


@pytest.mark.parametrize("max_wait_s", [0.0, 0.1])
def test_the_wait_is_at_most_max_wait_s(max_wait_s):
    batcher, arrives = DynamicBatcher[int](16, max_wait_s), threading.Event()
    thread = put_later(batcher, 2, NEVER_S, arrives)
    put(batcher, 1)
    start = time.monotonic()
    assert batcher.get_batch() == [1]
    assert time.monotonic() - start >= max_wait_s
    arrives.set()
    thread.join()
    assert batcher.get_batch() == [2]


def test_a_dropped_item_ends_the_wait():
    batcher = DynamicBatcher[int](16, NEVER_S)
    thread = put_later(batcher, None, 0.05)
    put(batcher, 1)
    start = time.monotonic()
    assert batcher.get_batch() == [1]
    assert time.monotonic() - start < NEVER_S / 2
    thread.join()


def test_concurrent_puts_lose_no_item():
    batcher = DynamicBatcher[int](7, 0.001)
    threads = [threading.Thread(target=put, args=(batcher, *range(first, 2000, 4))) for first in range(4)]
    for thread in threads:
        thread.start()
    items: list[int] = []
    while len(items) < 2000:
        batch = batcher.get_batch()
        assert 1 <= len(batch) <= 7
        items += batch
    assert sorted(items) == list(range(2000))
