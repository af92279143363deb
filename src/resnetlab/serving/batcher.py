"""Single images into batches: as full as what is here allows, and nobody waits for what may never come. No torch.

While the network computes, images gather. When it is free it takes all that are ready. Where some are still being
decoded it waits for them, but no longer than `max_wait_s`; where none is, it begins at once: a single client never
waits.
"""

import threading
import time
from collections import deque
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

Item = TypeVar("Item")


class DynamicBatcher(Generic[Item]):
    """Where decoders put images, and the network takes batches; threads share it."""

    def __init__(self, max_batch: int, max_wait_s: float) -> None:
        """Give out at most `max_batch` items at a time, and wait at most `max_wait_s` for those under way."""
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._ready: deque[Item] = deque()
        self._under_way = 0
        self._changed = threading.Condition()

    def expect(self) -> AbstractContextManager[None]:
        """Count an item as under way from now until the context ends; in it the item is `put`, or is given up."""
        with self._changed:
            self._under_way += 1
        return _InFlight(self)

    def put(self, item: Item) -> None:
        """Hand in an item that was expected."""
        with self._changed:
            self._ready.append(item)

    def take(self) -> list[Item]:
        """Return the next batch, at least one item, in the order in which they were put; wait for it."""
        with self._changed:
            while not self._ready:
                self._changed.wait()
            until = time.monotonic() + self._max_wait_s
            while self._under_way and len(self._ready) < self._max_batch:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return [self._ready.popleft() for _ in range(min(self._max_batch, len(self._ready)))]

    def arrived(self) -> None:
        """Count an item as no longer under way."""
        with self._changed:
            self._under_way -= 1
            self._changed.notify()


class _InFlight(AbstractContextManager[None]):
    def __init__(self, gathering: DynamicBatcher) -> None:
        self._gathering = gathering

    def __exit__(self, *_: object) -> None:
        self._gathering.arrived()
