"""Images that stay encoded, in files, in shards or in memory, and are decoded for each batch."""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from resnetlab.data.images.decode import MAX_PIXELS, BadImageError, decode, decode_crop, decode_eval_view
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.images.luma import luma
from resnetlab.data.images.packed_sequences import PackedByteRanges, take_items
from resnetlab.data.images.storage import (
    ImageStorage,
    confirm_shard_of,
    confirm_shards,
    read_image_bytes,
    stored_size,
)

CHUNK = 8
"""Number of images in one task of a thread: a task for each image would cost up to a tenth of its decoding."""

Decoded = tuple[Tensor, Tensor]
"""The pixels of the samples that could be decoded, and a bool mask of these samples."""


class DecodeStats:
    """Number of decoded images and decoding time, summed over all threads that decode."""

    def __init__(self) -> None:
        """Start from zero."""
        self._lock, self._images, self._seconds = threading.Lock(), 0, 0.0

    def add(self, images: int, seconds: float) -> None:
        """Add the images that one thread decoded and the seconds it took."""
        with self._lock:
            self._images += images
            self._seconds += seconds

    def take(self) -> float | None:
        """Return the images that one thread decodes in a second and reset; `None` if no image was decoded."""
        with self._lock:
            speed = self._images / self._seconds if self._seconds else None
            self._images, self._seconds = 0, 0.0
            return speed


@dataclass(frozen=True)
class EncodedImages:
    """Encoded images of any size, decoded on demand: to colour, or to grey if `channels` is 1."""

    storage: Sequence[ImageStorage]
    names: Sequence[str]
    """A unique name for each image."""
    sizes: Tensor
    """Height and width in pixels, upright; int64 of shape (num_samples, 2)."""
    _: KW_ONLY
    view: EvalView
    """The evaluation view: geometry and colours."""
    skip_bad: bool = False
    """Leave out (and report) an image that cannot be decoded, instead of raising an error."""
    max_pixels: int = MAX_PIXELS
    channels: int = 3
    """3 for colour, 1 for the brightness of each pixel."""
    report: Callable[[str], None] = lambda message: None
    """Called with `NAME: REASON` once for each image that is left out, from the thread that waits for the batch."""
    decode_stats: DecodeStats = field(default_factory=DecodeStats, repr=False, compare=False)
    """Shared by all subsets."""
    _reported: dict[str, object] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.storage)

    def signature(self) -> bytes:
        """Return a digest of names and lengths in bytes for the fingerprint; a missing file has length -1."""
        digest = hashlib.sha256()
        for name, storage in zip(self.names, self.storage, strict=True):
            digest.update(f"{name}\0{stored_size(storage)}\n".encode("utf-8", "surrogateescape"))
        return digest.digest()

    def subset(self, samples: Tensor) -> "EncodedImages":
        """Return the given samples, int64, in that order; an image that was reported is not reported again."""
        rows = samples.numpy()
        return replace(
            self,
            storage=take_items(self.storage, rows),
            names=take_items(self.names, rows),
            sizes=self.sizes[samples],
        )

    def with_report(self, report: Callable[[str], None]) -> "EncodedImages":
        """Return the same images with another `report` callback, which gets every bad image anew."""
        return replace(self, report=report, _reported={})

    def prefetch(self, samples: Tensor) -> AbstractContextManager[None]:
        """Download remote shards in the order of `samples`, ahead of reads, while the context is active."""
        if isinstance(self.storage, PackedByteRanges):
            return self.storage.prefetch(samples.numpy())
        return nullcontext()

    def confirm_shards(self) -> None:
        """Wait at the end of a pass until the shards that hold the images have been checked.

        Raises:
            DamagedShardError: If a shard is damaged.
        """
        confirm_shards(self.storage)

    def decode_eval_views(self, samples: Tensor, pool: Executor | None = None) -> Decoded:
        """Decode the evaluation view of each sample, in the threads of `pool` if given.

        Returns:
            uint8 (num_decoded, channels, view.height, view.width), channels last in memory; and a bool mask of the
            decoded samples, shape (len(samples),).

        Raises:
            BadImageError: If an image cannot be decoded, unless `skip_bad`; it names the first such image.
        """
        return self.submit_eval_views(samples, pool)()

    def decode_crops(self, samples: Tensor, boxes: Tensor, pool: Executor | None = None) -> Decoded:
        """Decode one box of each sample, resized to the view's height; returns and raises as `decode_eval_views` does.

        `boxes` has shape (len(samples), 4): top, left, height, width as fractions of the image, inside it.
        """
        return self.submit_crops(samples, boxes, pool)()

    def decode_full(self, samples: Tensor, min_side: int, pool: Executor | None = None) -> list[np.ndarray | None]:
        """Decode whole images: uint8 (height, width, channels), or `None` for an image that is left out.

        If the view reduces JPEGs, one may be decoded at a reduced size, as long as its shorter side keeps `min_side`
        pixels.

        Raises:
            BadImageError: If an image cannot be decoded, unless `skip_bad`; it names the first such image.
        """
        least = min_side if self.view.reduces_jpegs else None

        def decode_one(index: int) -> np.ndarray | str:
            try:
                data = _read(self.storage[index])
                return self._in_channels(decode(data, self.max_pixels, least, color_profiles=self.view.color_profiles))
            except BadImageError as error:
                confirm_shard_of(self.storage[index])
                return str(error)

        indices = samples.tolist()
        results = list((map if pool is None else pool.map)(decode_one, indices))
        for index, image in zip(indices, results, strict=True):
            if isinstance(image, str):
                self._leave_out(str(self.names[index]), image)
        return [None if isinstance(image, str) else image for image in results]

    def submit_eval_views(self, samples: Tensor, pool: Executor | None) -> Callable[[], Decoded]:
        """Start `decode_eval_views` in a pool and return at once; call the returned function to wait for the result."""

        def decode_one(data: bytes, _: int) -> np.ndarray:
            return decode_eval_view(data, self.view, max_pixels=self.max_pixels)

        return self._submit(samples, decode_one, pool, (self.view.height, self.view.width))

    def submit_crops(
        self,
        samples: Tensor,
        boxes: Tensor,
        pool: Executor | None,
        *,
        size: int | None = None,
    ) -> Callable[[], Decoded]:
        """Start `decode_crops` in a pool and return at once; call the returned function to wait for the result.

        Crops have `size` pixels a side, or the view's height if not given.
        """
        corners, side = boxes.tolist(), size or self.view.height
        colours, kernel = self.view.color_profiles, self.view.interpolation

        def decode_one(data: bytes, position: int) -> np.ndarray:
            return decode_crop(
                data,
                corners[position],
                side,
                max_pixels=self.max_pixels,
                color_profiles=colours,
                interpolation=kernel,
            )

        return self._submit(samples, decode_one, pool, (side, side))

    def _submit(
        self,
        samples: Tensor,
        decode_one: Callable[[bytes, int], np.ndarray],
        pool: Executor | None,
        size: tuple[int, int],
    ) -> Callable[[], Decoded]:
        """Start decoding the samples to `size`, each into its own slot, so that threads do not affect the order.

        Chunks are collected in order, so the first bad image is always the same one.
        """
        indices = samples.tolist()
        pixels = np.empty((len(indices), *size, self.channels), np.uint8)

        def decode_chunk(start: int) -> dict[int, str]:
            """Return the reason for each bad image, by position."""
            bad: dict[int, str] = {}
            start_s, end = time.perf_counter(), min(start + CHUNK, len(indices))
            for position in range(start, end):
                try:
                    image = decode_one(_read(self.storage[indices[position]]), position)
                    pixels[position] = self._in_channels(image)
                except BadImageError as error:
                    confirm_shard_of(self.storage[indices[position]])
                    bad[position] = str(error)
                    if not self.skip_bad:
                        break
            self.decode_stats.add(end - start, time.perf_counter() - start_s)
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

    def _in_channels(self, pixels: np.ndarray) -> np.ndarray:
        """Return decoded pixels, (height, width, 3), in the channels of the images."""
        return luma(pixels) if self.channels == 1 else pixels

    def _leave_out(self, name: str, reason: str) -> None:
        """Report a bad image once, or raise `BadImageError` unless `skip_bad`."""
        if not self.skip_bad:
            raise BadImageError(f"{name}: cannot be decoded ({reason}); skip such images with --on-bad-image skip")
        token = object()
        if self._reported.setdefault(name, token) is token:  # atomic: only one of several threads reports the image
            self.report(f"{name}: {reason}")


def _read(storage: ImageStorage) -> bytes:
    try:
        return read_image_bytes(storage)
    except OSError as error:
        raise BadImageError(error.strerror or str(error)) from error
