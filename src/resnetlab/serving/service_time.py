"""The worker's seconds per image, measured from its replies while it is busy."""

import time
from collections import deque

DEFAULT_S = 0.05
"""Assumed before the first reply."""
WINDOW = 64
"""Images over which the mean is taken: four batches."""


class ServiceTime:
    """The mean interval between the worker's replies, without the time in which it had nothing to do.

    Replies of a batch arrive together, so single intervals say little; their mean over a few batches is the inverse of
    the throughput, decoding included.
    """

    def __init__(self) -> None:
        self._intervals_s: deque[float] = deque(maxlen=WINDOW)
        self._last_at = 0.0

    @property
    def seconds(self) -> float:
        """Seconds per image."""
        return sum(self._intervals_s) / len(self._intervals_s) if self._intervals_s else DEFAULT_S

    def start(self) -> None:
        """Note that the worker gets an image after it had none."""
        self._last_at = time.monotonic()

    def add_reply(self) -> None:
        """Note that the worker has replied to an image."""
        now = time.monotonic()
        self._intervals_s.append(now - self._last_at)
        self._last_at = now
