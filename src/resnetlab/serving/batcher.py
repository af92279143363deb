"""Dynamic batching: group single images into batches, without delaying an image that arrives alone.

While the network computes, decoded images queue. When the network is free it takes all queued images. If others are
still being decoded, it waits for them, at most `max_wait_s`. If none are, the batch starts at once.
"""

import threading
import time
from collections import deque
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

Item = TypeVar("Item")


class DynamicBatcher(Generic[Item]):
    """A thread-safe queue: decoder threads `put` items, the inference thread gets batches."""

    def __init__(self, max_batch: int, max_wait_s: float) -> None:
        """Return at most `max_batch` items per batch, and wait at most `max_wait_s` for items in flight."""
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._queue: deque[Item] = deque()
        self._in_flight = 0
        self._changed = threading.Condition()

    def reserve(self) -> AbstractContextManager[None]:
        """Count an item as in flight from this call until the context ends; inside, `put` the item or drop it."""
        with self._changed:
            self._in_flight += 1
        return _Reservation(self)

    def put(self, item: Item) -> None:
        """Queue an item, inside the context that `reserve` returned."""
        with self._changed:
            self._queue.append(item)

    def get_batch(self) -> list[Item]:
        """Wait for the next batch and return it: at least one item, in the order in which they were put."""
        with self._changed:
            while not self._queue:
                self._changed.wait()
            deadline = time.monotonic() + self._max_wait_s
            while self._in_flight and len(self._queue) < self._max_batch:
                remaining_s = deadline - time.monotonic()
                if remaining_s <= 0:
                    break
                self._changed.wait(remaining_s)
            return [self._queue.popleft() for _ in range(min(self._max_batch, len(self._queue)))]

    def release(self) -> None:
        """Count an item as no longer in flight."""
        with self._changed:
            self._in_flight -= 1
            self._changed.notify()


class _Reservation(AbstractContextManager[None]):
    def __init__(self, batcher: DynamicBatcher) -> None:
        self._batcher = batcher

    def __exit__(self, *_: object) -> None:
        self._batcher.release()
