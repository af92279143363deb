"""Images that stay encoded, in files or in memory, and are decoded when a batch needs them."""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from resnetlab.data.images.decode import BadImageError, decode, decode_crop, decode_eval_view
from resnetlab.data.images.packed_sequences import PackedByteRanges, take_items
from resnetlab.data.images.storage import ImageStorage, read_image_bytes, stored_size

CHUNK = 8
"""Images a thread decodes in one go: handing each over by itself would cost up to a tenth of decoding it."""

Decoded = tuple[Tensor, Tensor]
"""Pixels of the samples that could be decoded, and a bool mask of which they are."""


class DecodeStats:
    """What decoding took, counted by the threads that decode."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._lock, self._images, self._seconds = threading.Lock(), 0, 0.0

    def add(self, images: int, seconds: float) -> None:
        """Count some images that a thread had decoded after so many seconds."""
        with self._lock:
            self._images += images
            self._seconds += seconds

    def take(self) -> float | None:
        """Return the images that a thread decoded in a second, and begin anew; `None` where there were none."""
        with self._lock:
            speed = self._images / self._seconds if self._seconds else None
            self._images, self._seconds = 0, 0.0
            return speed


@dataclass(frozen=True)
class EncodedImages:
    """Images of any size, each a file, a piece of a shard, or bytes in memory.

    `sizes` is int64 of shape (num_samples, 2): height and width as a viewer shows them, in pixels. `names` differ.
    """

    places: Sequence[ImageStorage]
    names: Sequence[str]
    sizes: Tensor
    image_size: int
    """Side in pixels of what the network sees."""
    crop_ratio: float
    """As in `Preprocessing`."""
    skip_bad: bool = False
    """Leave out an image that cannot be decoded (and report it) instead of raising."""
    max_pixels: int = 100_000_000
    report: Callable[[str], None] = lambda message: None
    """Told `NAME: REASON`, once for each image that is left out, by the thread that asked for it."""
    tally: DecodeStats = field(default_factory=DecodeStats, repr=False, compare=False)
    """Shared by all subsets."""
    _reported: dict[str, object] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.places)

    def signature(self) -> bytes:
        """Return a digest of names and lengths in bytes, for a fingerprint; a file that is missing has none."""
        digest = hashlib.sha256()
        for name, place in zip(self.names, self.places, strict=True):
            digest.update(f"{name}\0{stored_size(place)}\n".encode("utf-8", "surrogateescape"))
        return digest.digest()

    def subset(self, samples: Tensor) -> "EncodedImages":
        """Return some of the images, in the order given by int64 `samples`; what was reported is not reported again."""
        rows = samples.numpy()
        return replace(
            self, places=take_items(self.places, rows), names=take_items(self.names, rows), sizes=self.sizes[samples]
        )

    def telling(self, report: Callable[[str], None]) -> "EncodedImages":
        """Return the same images with somebody else to report to, who has heard of none yet."""
        return replace(self, report=report, _reported={})

    def ahead(self, samples: Tensor) -> AbstractContextManager[None]:
        """Have what is far away brought here before it is read, while the context lasts, in the order of `samples`."""
        return self.places.ahead(samples.numpy()) if isinstance(self.places, PackedByteRanges) else nullcontext()

    def views(self, samples: Tensor, pool: Executor | None = None) -> Decoded:
        """Decode the evaluation view of each sample, in the threads of a pool if given.

        Returns:
            uint8 (kept, 3, image_size, image_size), channels last in memory; and a bool mask of those that could be
            decoded, shape (len(samples),).

        Raises:
            BadImageError: naming the first image that cannot be decoded, unless `skip_bad`.
        """
        return self.begin_views(samples, pool)()

    def crops(self, samples: Tensor, boxes: Tensor, pool: Executor | None = None) -> Decoded:
        """Decode one box of each sample, resized to image_size; returns and raises as `views` does.

        `boxes` has shape (len(samples), 4): (top, left, height, width) as fractions of the image, inside it.
        """
        return self.begin_crops(samples, boxes, pool)()

    def pictures(self, samples: Tensor, min_side: int, pool: Executor | None = None) -> list[np.ndarray | None]:
        """Decode each sample whole: uint8 (height, width, 3), its shorter side at least `min_side` where it has that.

        `None` stands for a sample that cannot be decoded and is left out.

        Raises:
            BadImageError: naming the first image that cannot be decoded, unless `skip_bad`.
        """

        def decode_whole(index: int) -> np.ndarray | str:
            try:
                return decode(_read(self.places[index]), self.max_pixels, min_side)
            except BadImageError as error:
                return str(error)

        chosen = samples.tolist()
        found = list((map if pool is None else pool.map)(decode_whole, chosen))
        for index, picture in zip(chosen, found, strict=True):
            if isinstance(picture, str):
                self._leave_out(str(self.names[index]), picture)
        return [None if isinstance(picture, str) else picture for picture in found]

    def begin_views(self, samples: Tensor, pool: Executor | None) -> Callable[[], Decoded]:
        """Let a pool begin with `views` and return at once; what is returned waits for the result."""

        def decode_view(data: bytes, _: int) -> np.ndarray:
            return decode_eval_view(data, self.image_size, self.crop_ratio, self.max_pixels)

        return self._begin(samples, decode_view, pool, self.image_size)

    def begin_crops(
        self, samples: Tensor, boxes: Tensor, pool: Executor | None, size: int | None = None
    ) -> Callable[[], Decoded]:
        """Let a pool begin with `crops` and return at once; what is returned waits for the result.

        Crops are `size` pixels a side, image_size if not given.
        """
        corners, side = boxes.tolist(), size or self.image_size

        def decode_one(data: bytes, position: int) -> np.ndarray:
            return decode_crop(data, corners[position], side, self.max_pixels)

        return self._begin(samples, decode_one, pool, side)

    def _begin(
        self, samples: Tensor, decode: Callable[[bytes, int], np.ndarray], pool: Executor | None, side: int
    ) -> Callable[[], Decoded]:
        """Begin to decode the samples' bytes, each into its own place, so that no thread can disturb the order.

        The first bad image is always the same one, because chunks are looked at in their order.
        """
        indices = samples.tolist()
        pixels = np.empty((len(indices), side, side, 3), np.uint8)

        def decode_chunk(start: int) -> dict[int, str]:
            """Return the reasons of the bad images, by position."""
            bad: dict[int, str] = {}
            begun_s, end = time.perf_counter(), min(start + CHUNK, len(indices))
            for position in range(start, end):
                try:
                    pixels[position] = decode(_read(self.places[indices[position]]), position)
                except BadImageError as error:
                    bad[position] = str(error)
                    if not self.skip_bad:
                        break
            self.tally.add(end - start, time.perf_counter() - begun_s)
            return bad

        starts = range(0, len(indices), CHUNK)
        chunks = map(decode_chunk, starts) if pool is None else pool.map(decode_chunk, starts)

        def finish() -> Decoded:
            good = torch.ones(len(indices), dtype=torch.bool)
            for bad in chunks:
                for position, reason in bad.items():
                    self._leave_out(str(self.names[indices[position]]), reason)
                    good[position] = False
            images = torch.from_numpy(pixels)
            return (images if good.all() else images[good]).permute(0, 3, 1, 2), good

        return finish

    def _leave_out(self, name: str, reason: str) -> None:
        if not self.skip_bad:
            raise BadImageError(f"{name}: cannot be decoded ({reason}); skip such images with --on-bad-image skip")
        mine = object()
        if self._reported.setdefault(name, mine) is mine:  # of two threads one is the first
            self.report(f"{name}: {reason}")


def _read(place: ImageStorage) -> bytes:
    try:
        return read_image_bytes(place)
    except OSError as error:
        raise BadImageError(error.strerror or str(error)) from error
