"""Limits of one server: images, bytes and seconds. Requests over a limit are rejected with the reason."""

import math
from dataclasses import dataclass

from resnetlab.config import check

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """The limits of one server.

    Raises:
        ConfigError: If a value is outside the range given at its field.
    """

    max_batch: int = 16
    """Images per batch through the network, at least 1."""
    max_wait_ms: float = 5.0
    """Milliseconds that a decoded image waits for others that are being decoded, at least 0."""
    max_queue: int = 128
    """Images that wait for the worker, at least 1; requests beyond it are rejected with 429."""
    timeout_s: float = 10.0
    """Seconds from a complete request to its response, above 0."""
    body_timeout_s: float = 20.0
    """Seconds within which a request body must arrive, above 0."""
    max_mib: int = 16
    """MiB of one encoded image, at least 1."""
    max_megapixels: int = 100
    """Megapixels of one image according to its header, at least 1."""
    max_decode_mib: int = 768
    """MiB of memory for decoding large images at a time, at least 16; an image that needs more is rejected. Small ones,
    of an eighth of it or less, may take as much again. A machine of 2 GiB and four cores has room for the default."""
    max_batch_images: int = 16
    """Images of one request to `/v1/predict/batch`, at least 1 and at most `max_queue`."""

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_queue", "max_mib", "max_megapixels", "max_batch_images"):
            value = getattr(self, name)
            check(value >= 1, f"{name.replace('_', '-')} must be at least 1, not {value}")
        check(self.max_decode_mib >= 16, f"max-decode-mib must be at least 16, not {self.max_decode_mib}")
        for name in ("timeout_s", "body_timeout_s"):
            value = getattr(self, name)
            option = name.removesuffix("_s").replace("_", "-")
            check(math.isfinite(value) and value > 0, f"{option} must be above 0 seconds, not {value}")
        wait = self.max_wait_ms
        check(math.isfinite(wait) and wait >= 0, f"max-wait-ms must be at least 0, not {wait}")
        check(
            self.max_batch_images <= self.max_queue,
            f"max-batch-images ({self.max_batch_images}) must be at most max-queue ({self.max_queue})",
        )

    @property
    def max_bytes(self) -> int:
        """Bytes of one encoded image."""
        return self.max_mib * MIB

    @property
    def max_decode_bytes(self) -> int:
        """Bytes of memory for decoding large images at a time."""
        return self.max_decode_mib * MIB

    @property
    def large_decode_bytes(self) -> int:
        """Bytes of memory above which an image counts as large: a small one passes those that are being decoded."""
        return self.max_decode_bytes // 8

    @property
    def max_batch_bytes(self) -> int:
        """Bytes of a batch request: two of the largest images as base64, and 1 MiB for the JSON around them."""
        return 2 * (4 * self.max_bytes // 3) + MIB

    @property
    def max_in_worker(self) -> int:
        """Images that the worker holds at a time: one batch in the network, one being decoded."""
        return 2 * self.max_batch
