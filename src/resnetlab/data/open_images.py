"""Opening listed images: decoded and resident, or encoded, in canonical order."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import DataConfig, Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.data.images.decode import decode_eval_view
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.images.packed_sequences import PackedStrings, concatenate, take_items
from resnetlab.data.images.scan import BadDataError, Progress, scan_images, stage_progress
from resnetlab.data.images.storage import ImageStorage
from resnetlab.data.listing import DatasetListing, SplitListing
from resnetlab.data.residency import choose_view, image_sizes, shard_numbers, stays_resident


@dataclass(frozen=True, kw_only=True)
class OpenImages:
    """All images of a data set, and the canonical order of each split that the data come with."""

    images: Tensor | EncodedImages
    labels: Tensor
    names: Sequence[str]
    orders: Mapping[str, Tensor]
    """Positions, int64, of the images of `train`, `val` and `test`, or of `all`, without the bad ones."""
    crop_ratio: float
    shards: Tensor | None = None
    """The shard of each image, int64 of shape (num_images,), where shards are read one after the other."""
    digests: Sequence[bytes | None] | None = None
    """The hash of each image's pixels, if they are resident; `None` for a bad image."""

    def take(self, positions: Tensor) -> Split:
        """Return images as a split, in the order of `positions`, or in storage order if there are shards."""
        canonical_order = None
        if self.shards is not None:
            positions, ranks = positions.sort()
            canonical_order = ranks.argsort()
        images = self.images[positions] if isinstance(self.images, Tensor) else self.images.subset(positions)
        return Split(
            images,
            self.labels[positions],
            take_items(self.names, positions.numpy()),
            shards=None if self.shards is None else self.shards[positions],
            canonical_order=canonical_order,
        )


def open_images(
    listing: DatasetListing,
    config: DataConfig,
    *,
    keep_encoded: bool,
    workers: int | None,
    on_progress: Progress,
    preprocessing: Preprocessing | None,
) -> tuple[OpenImages, list[str]]:
    """Read the size of every image, decide whether images become resident, and decode them if they do.

    Returns:
        The images, and each image that was left out, as `NAME: REASON`.

    Raises:
        BadDataError: If images cannot be read and `config.on_bad_image` is `fail`, or if no image can be read.
    """
    splits = listing.splits.values()
    names = concatenate([split.names for split in splits])
    storage = concatenate([split.storage for split in splits])
    labels = torch.from_numpy(np.concatenate([_label_array(split) for split in splits]))
    lengths = {name: len(split) for name, split in listing.splits.items()}
    max_pixels = config.max_megapixels * 1_000_000
    sizes, bad = image_sizes(listing, names, storage, max_pixels=max_pixels, workers=workers, on_progress=on_progress)
    readable = sizes[:, 0] > 0
    if not bool(readable.any()):
        raise BadDataError(bad, len(names), config.name)
    view = choose_view(sizes[readable], config, preprocessing)
    resident = stays_resident(sizes[readable], (view.height, view.width), config, keep_encoded=keep_encoded)
    keys: Sequence[Any]  # sort key of each image within its class; `None` for a bad image
    digests = None
    if resident:
        images, digests, undecodable = _decode_resident(
            names,
            storage,
            torch.nonzero(readable).flatten().numpy(),
            view=view,
            max_pixels=max_pixels,
            workers=workers,
            on_progress=on_progress,
        )
        bad = bad + undecodable
        keys = digests
    else:
        images = EncodedImages(
            storage=storage,
            names=names,
            sizes=sizes,
            view=view,
            skip_bad=config.on_bad_image == "skip",
            max_pixels=max_pixels,
        )
        keys = names
        if not bool(readable.all()):
            keys = [name if ok else None for name, ok in zip(names, readable, strict=True)]
    if bad and config.on_bad_image == "fail":
        raise BadDataError(bad, len(names), config.name)
    opened = OpenImages(
        images=images,
        labels=labels,
        names=names,
        orders=canonical_orders(lengths, labels, keys),
        crop_ratio=view.crop_ratio,
        shards=None if resident else shard_numbers(listing),
        digests=digests,
    )
    return opened, bad


def _label_array(split: SplitListing) -> np.ndarray:
    """Return the class of each image, int64 (number,), or its labels, bool (number, num_classes)."""
    return np.asarray(split.labels, np.int64) if split.label_matrix is None else split.label_matrix


def _decode_resident(
    names: Sequence[str],
    storage: Sequence[ImageStorage],
    positions: np.ndarray,
    *,
    view: EvalView,
    max_pixels: int,
    workers: int | None,
    on_progress: Progress,
) -> tuple[Tensor, list[bytes | None], list[str]]:
    """Decode the images at the given positions.

    Returns:
        Pixels of all images, uint8 of shape (num_images, 3, height, width), zeros where not decoded; the digest of each
        image, or `None`; and each image that cannot be decoded, as `NAME: REASON`.
    """
    pixels = np.zeros((len(names), 3, view.height, view.width), np.uint8)

    def decode_one(row: int, data: bytes) -> bytes:
        pixels[positions[row]] = decode_eval_view(data, view, max_pixels=max_pixels).transpose(2, 0, 1)
        return image_digest(pixels[positions[row]])

    digests, bad = scan_images(
        take_items(names, positions),
        take_items(storage, positions),
        decode_one,
        workers=workers,
        on_progress=stage_progress(on_progress, "decoding"),
    )
    by_position = dict(zip(positions.tolist(), digests, strict=True))
    return torch.from_numpy(pixels), [by_position.get(position) for position in range(len(names))], bad


def canonical_orders(
    lengths: Mapping[str, int], labels: Tensor, keys: Sequence[bytes | None] | Sequence[str | None] | PackedStrings
) -> dict[str, Tensor]:
    """Sort the positions of each split by label, then by key; positions whose key is `None` are left out.

    Images with several labels are sorted by key alone.
    """
    orders, start = {}, 0
    sorted_by = labels if labels.ndim == 1 else torch.zeros(len(labels), dtype=torch.int64)
    for split, length in lengths.items():
        if isinstance(keys, PackedStrings):
            strings = keys.take(np.arange(start, start + length))
            ranks = np.lexsort((strings.sortable(), sorted_by[start : start + length].numpy()))
            orders[split] = torch.from_numpy(ranks + start)
        else:
            numbers = sorted_by.tolist()
            valid = [position for position in range(start, start + length) if keys[position] is not None]
            valid.sort(key=lambda position: (numbers[position], keys[position]))
            orders[split] = torch.tensor(valid, dtype=torch.int64)
        start += length
    return orders


def image_digest(image: np.ndarray) -> bytes:
    """Return a hash of the pixels, by which images of a class are sorted."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
