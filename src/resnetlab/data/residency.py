"""Sizes: of images as they are, as a network sees them, and whether they are kept in memory so; where they lie."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import DataConfig, Preprocessing
from resnetlab.data.images.decode import decode_eval_view
from resnetlab.data.images.scan import Progress, scan_headers, scan_images, stage_progress
from resnetlab.data.images.storage import ImageStorage
from resnetlab.data.registry import DatasetListing

LARGEST_OWN = 256
"""Side in pixels up to which square images of one size are seen as they are."""


def eval_geometry(sizes: Tensor, image_size: int | None, seen_as: Preprocessing | None) -> tuple[int, float]:
    """Return the side that the network sees, and the crop ratio: 7/8, as for ImageNet, unless images fit or are small.

    `sizes` is int64 of shape (num_samples, 2): height and width.
    """
    if seen_as is not None:
        return seen_as.image_size, seen_as.crop_ratio
    own = int(sizes[0, 0]) if bool((sizes == sizes[0, 0]).all()) else None
    size = image_size or (own if own is not None and own <= LARGEST_OWN else 224)
    return size, 1.0 if size == own or size < 64 else 0.875


def stays_resident(sizes: Tensor, size: int, config: DataConfig, keep_encoded: bool, number: int | None = None) -> bool:
    """Say whether the images are decoded once and kept in memory, at the size that the network sees.

    `sizes` is as for `eval_geometry`, of all images, or of some where `number` says how many there are.
    """
    same = bool((sizes == sizes[0]).all())
    if keep_encoded and (not same or int(sizes.max()) > size):
        return False
    room = config.resident_mib * 2**20
    return (number or len(sizes)) * 3 * size**2 <= (room if same else room // 8)


def resize_known(
    images: Tensor, config: DataConfig, workers: int | None, tell: Progress, seen_as: Preprocessing | None
) -> tuple[Tensor, float]:
    """Resize images of a known data set to another size, if one is wanted, exactly as if they came from files."""
    count, channels, height, width = images.shape
    size, ratio = eval_geometry(torch.tensor([[height, width]]), config.image_size, seen_as)
    if size == height == width and ratio == 1:
        return images, ratio
    packed = [  # binary PGM or PPM: a header before the pixels
        b"P%d %d %d 255\n" % (5 if channels == 1 else 6, width, height) + image.tobytes()
        for image in images.permute(0, 2, 3, 1).numpy()
    ]
    made = np.empty((count, channels, size, size), np.uint8)

    def look(position: int, data: bytes) -> None:
        made[position] = decode_eval_view(data, size, ratio, height * width).transpose(2, 0, 1)[:channels]

    names = [f"image {position}" for position in range(count)]
    scan_images(names, packed, look, workers=workers, on_progress=stage_progress(tell, "resizing"))
    return torch.from_numpy(made), ratio


def image_sizes(
    contents: DatasetListing,
    names: Sequence[str],
    places: Sequence[ImageStorage],
    max_pixels: int,
    workers: int | None,
    tell: Progress,
) -> tuple[Tensor, list[str]]:
    """Return height and width of every image, int64 (number, 2), zeros for a bad one; and each bad one with its reason.

    What an index says is believed; other images are opened, as far as their header.
    """
    known = [listing.sizes for listing in contents.splits.values() if listing.sizes is not None]
    if len(known) < len(contents.splits):
        headers, bad = scan_headers(
            names, places, max_pixels, workers=workers, on_progress=stage_progress(tell, "measuring")
        )
        return torch.tensor([(header.height, header.width) if header else (0, 0) for header in headers]), bad
    sizes = torch.from_numpy(np.concatenate(known))
    large = torch.nonzero(sizes.prod(1) > max_pixels).flatten().tolist()
    megapixels = max_pixels / 1e6
    bad = [
        f"{names[at]}: {sizes[at, 1]:,} x {sizes[at, 0]:,} pixels, more than {megapixels:g} megapixels" for at in large
    ]
    sizes[large] = 0
    return sizes, bad


def shard_numbers(contents: DatasetListing) -> Tensor | None:
    """Return the shard of each image, numbered through all splits, or `None` where any can be read at any time."""
    parts, start = [], 0
    for listing in contents.splits.values():
        if listing.shards is None:
            return None
        parts.append(listing.shards + start)
        start += int(listing.shards.max(initial=-1)) + 1
    return torch.from_numpy(np.concatenate(parts))
