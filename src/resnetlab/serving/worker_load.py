"""The images that the worker holds: their memory, and whether the worker makes progress with them.

Large images have a budget of memory of their own, so that others pass them: a few images of a hundred megapixels delay
small ones by the one that is being decoded, not by all of them. A worker counts as hung from its last message, and an
image from the start of its current stage, never from the moment at which it was sent or while it waits for its turn: a
long list of large images is work, not a hang.
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from resnetlab.data.images.decode_memory import decode_memory, read_claim
from resnetlab.serving.limits import Limits

WAITING = "waiting"
"""The stage of an image that waits for the network or for a thread, which may take as long as others need."""
HANG_GRACE_S = 2.0
"""Seconds beyond the deadline of an image after which a worker without progress counts as hung."""
SLOWEST_DECODING = 50e6
"""Bytes of decoding memory per second; a fifth of what one core of a slow machine does while others use it."""


@dataclass(frozen=True)
class WorkerReply:
    """The worker's result for one image."""

    top: list[tuple[str, float]]
    """Classes and probabilities, the most probable first."""
    times_ms: dict[str, float]
    """Milliseconds: `queue`, `decode`, `inference`, `explain`, `total`."""
    overlay_png: bytes
    """PNG of the explanation, empty if not requested."""
    is_unknown: bool | None = None
    """Whether no class is probable enough; `None` if the server rejects no image."""
    labels: list[str] | None = None
    """The labels of the image; `None` where an image has one class."""


@dataclass
class PendingRequest:
    """An image without a result."""

    id: int
    data: bytes
    """The encoded image; empty once sent."""
    top: int
    """Number of classes to return."""
    explain: bool
    """Whether to render a Grad-CAM overlay."""
    reply: asyncio.Future[WorkerReply]
    submitted_at: float = field(default_factory=time.monotonic)
    sent_at: float | None = None
    """`time.monotonic()` when the worker got it; `None` while it is queued."""
    stage_at: float | None = None
    """`time.monotonic()` when the worker reported that it began with a stage; `None` before, and while it waits."""
    memory_bytes: int = -1
    """Most memory of decoding; 0 if the worker will reject the image before it decodes it, -1 if not yet known."""


class WorkerLoad:
    """The images that the worker holds."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._max_age_s = limits.timeout_s + HANG_GRACE_S
        self._progress_at = 0.0
        self.sent: dict[int, PendingRequest] = {}
        """The images by id, in the order in which they were sent."""
        self.min_side = 1
        """Pixels that the shorter side of a JPEG keeps when it is decoded; the worker reports it."""
        self.batch_s = 0.0
        """Seconds of the largest batch while the worker warmed up, in which it sends no message; it reports them."""

    def reserve(self, pending: PendingRequest) -> None:
        """Set the memory that an image may take, from its header; all that is allowed if the header is not readable."""
        if pending.memory_bytes >= 0:
            return
        claim, most = read_claim(pending.data), self._limits.max_decode_bytes
        needed = most if claim is None else decode_memory(claim, self.min_side)
        pending.memory_bytes = needed if needed <= most else 0

    def fits(self, pending: PendingRequest) -> bool:
        """Return whether the worker may get an image now, after `reserve`."""
        if len(self.sent) >= self._limits.max_in_worker:
            return False
        if pending.memory_bytes <= self._limits.large_decode_bytes:
            return True
        large = [
            image.memory_bytes for image in self.sent.values() if image.memory_bytes > self._limits.large_decode_bytes
        ]
        return sum(large) + pending.memory_bytes <= self._limits.max_decode_bytes

    def add(self, pending: PendingRequest) -> None:
        """Store an image that is sent to the worker now."""
        pending.sent_at = time.monotonic()
        if not self.sent:
            self._progress_at = pending.sent_at
        self.sent[pending.id] = pending

    def begin_stage(self, request_ids: Iterable[int], stage: str) -> None:
        """Note that the worker begins with the next stage of some images, or that they are `WAITING`."""
        self._progress_at = time.monotonic()
        for request_id in request_ids:
            self.sent[request_id].stage_at = None if stage == WAITING else self._progress_at

    def remove(self, request_id: int) -> PendingRequest:
        """Remove and return an image to which the worker replied."""
        self._progress_at = time.monotonic()
        return self.sent.pop(request_id)

    def is_hung(self) -> bool:
        """Return whether the worker, or one of its images, makes no progress any more."""
        if not self.sent:
            return False
        now, max_age_s = time.monotonic(), self._max_age_s + 2 * self.batch_s
        slowest_s = max(image.memory_bytes for image in self.sent.values()) / SLOWEST_DECODING
        if now - self._progress_at > max_age_s + slowest_s:
            return True
        return any(
            image.stage_at is not None and now - image.stage_at > max_age_s + image.memory_bytes / SLOWEST_DECODING
            for image in self.sent.values()
        )
