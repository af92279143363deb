"""Batches form of what is here, and nobody waits for what may never come."""

import threading
import time

import pytest

from resnetlab.serving.batcher import DynamicBatcher

LONG_S = 30.0
"""A wait that no test would sit out."""


def put(gathering: DynamicBatcher[int], *items: int) -> None:
    for item in items:
        with gathering.expect():
            gathering.put(item)


def later(gathering: DynamicBatcher[int], item: int | None, after_s: float) -> threading.Thread:
    """Expect an item now, and put it, or give it up, some time later."""
    expected = gathering.expect()

    def arrive() -> None:
        time.sleep(after_s)
        with expected:
            if item is not None:
                gathering.put(item)

    thread = threading.Thread(target=arrive)
    thread.start()
    return thread


def test_a_single_one_does_not_wait():
    gathering = DynamicBatcher[int](16, LONG_S)
    begun = time.monotonic()
    put(gathering, 1)
    assert gathering.take() == [1]
    assert time.monotonic() - begun < 1


def test_what_has_gathered_goes_together_in_order_and_never_too_many():
    gathering = DynamicBatcher[int](4, LONG_S)
    put(gathering, *range(10))
    assert [gathering.take() for _ in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_it_waits_for_what_is_under_way():
    gathering = DynamicBatcher[int](16, LONG_S)
    threads = [later(gathering, item, item / 50) for item in (1, 2, 3)]
    put(gathering, 0)
    assert gathering.take() == [0, 1, 2, 3]
    for thread in threads:
        thread.join()


def test_a_full_batch_waits_for_nobody():
    gathering = DynamicBatcher[int](2, LONG_S)
    thread = later(gathering, 9, 0.5)
    put(gathering, 1, 2)
    begun = time.monotonic()
    assert gathering.take() == [1, 2]
    assert time.monotonic() - begun < 0.4
    thread.join()
    assert gathering.take() == [9]


@pytest.mark.parametrize("wait_s", [0.0, 0.1])
def test_it_waits_no_longer_than_allowed(wait_s):
    gathering = DynamicBatcher[int](16, wait_s)
    thread = later(gathering, 2, 0.6)
    put(gathering, 1)
    begun = time.monotonic()
    assert gathering.take() == [1]
    assert wait_s <= time.monotonic() - begun < 0.5
    thread.join()
    assert gathering.take() == [2]


def test_what_is_given_up_is_waited_for_no_more():
    gathering = DynamicBatcher[int](16, LONG_S)
    thread = later(gathering, None, 0.05)
    put(gathering, 1)
    assert gathering.take() == [1]
    thread.join()


def test_threads_lose_nothing():
    gathering = DynamicBatcher[int](7, 0.001)
    threads = [threading.Thread(target=put, args=(gathering, *range(at, 2000, 4))) for at in range(4)]
    for thread in threads:
        thread.start()
    taken: list[int] = []
    while len(taken) < 2000:
        batch = gathering.take()
        assert 1 <= len(batch) <= 7
        taken += batch
    assert sorted(taken) == list(range(2000))
