"""How much a server takes: of images, of bytes, of time. What is beyond is refused, and told so."""

import math
from dataclasses import dataclass

from resnetlab.config import check

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """The limits of one server.

    Raises:
        ConfigError: for values outside the ranges given at the fields.
    """

    max_batch: int = 16
    """Images that go through the network together, at least 1."""
    max_wait_ms: float = 5.0
    """How long a decoded image waits for others that are being decoded, at least 0."""
    max_queue: int = 128
    """Images that wait for the worker, at least 1; more are refused."""
    timeout_s: float = 10.0
    """Seconds from a whole request to its answer, above 0."""
    body_timeout_s: float = 20.0
    """Seconds in which a request's body must have come, above 0."""
    max_mib: int = 16
    """MiB of one encoded image, at least 1."""
    max_megapixels: int = 100
    """Megapixels that an image may claim, at least 1."""
    max_batch_images: int = 16
    """Images of one request to `/v1/predict/batch`, at least 1 and no more than `max_queue`."""

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_queue", "max_mib", "max_megapixels", "max_batch_images"):
            value = getattr(self, name)
            check(value >= 1, f"{name.replace('_', '-')} must be at least 1, not {value}")
        for name in ("timeout_s", "body_timeout_s"):
            value = getattr(self, name)
            check(math.isfinite(value) and value > 0, f"{name.replace('_', '-')} must be above 0, not {value}")
        wait = self.max_wait_ms
        check(math.isfinite(wait) and wait >= 0, f"max-wait-ms must be at least 0, not {wait}")
        check(
            self.max_batch_images <= self.max_queue,
            f"max-batch-images ({self.max_batch_images}) is more than the queue holds (max-queue {self.max_queue})",
        )

    @property
    def max_bytes(self) -> int:
        """Bytes of one encoded image."""
        return self.max_mib * MIB

    @property
    def max_batch_bytes(self) -> int:
        """Bytes of the JSON of a batch: four of the largest images as base64, and some room for its punctuation."""
        return 4 * (4 * self.max_bytes // 3) + MIB

    @property
    def window(self) -> int:
        """Images that the worker has at one time: a batch that is judged, and one that is decoded meanwhile."""
        return 2 * self.max_batch
