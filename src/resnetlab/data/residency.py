"""Image sizes: of the originals, of the network's input, and whether decoded images fit into memory."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import ColorProfiles, DataConfig, Preprocessing
from resnetlab.data.images.decode import decode_eval_view
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.images.scan import Progress, scan_headers, scan_images, stage_progress
from resnetlab.data.images.storage import ImageStorage
from resnetlab.data.listing import DatasetListing

MAX_NATIVE_SIZE = 256
"""Side in pixels up to which square images of one size keep their size."""


def eval_geometry(sizes: Tensor, image_size: int | None) -> tuple[int, float]:
    """Return the side of a new network's input in pixels and the crop ratio.

    The crop ratio is 7/8, as for ImageNet, or 1 if images have the input's size already or the input is below 64
    pixels.

    Args:
        sizes: Height and width of the images, int64 of shape (num_samples, 2).
        image_size: The side that the user asks for.
    """
    native = int(sizes[0, 0]) if bool((sizes == sizes[0, 0]).all()) else None
    size = image_size or (native if native is not None and native <= MAX_NATIVE_SIZE else 224)
    return size, 1.0 if size == native or size < 64 else 0.875


def choose_color_profiles(config: DataConfig, preprocessing: Preprocessing | None = None) -> ColorProfiles:
    """Return whether colour profiles are applied: as the user asks, or as for an existing network, or else yes."""
    return config.color_profiles or (preprocessing.color_profiles if preprocessing is not None else "apply")


def choose_view(sizes: Tensor, config: DataConfig, preprocessing: Preprocessing | None = None) -> EvalView:
    """Return the evaluation view: that of an existing network, or as `eval_geometry` says for a new one.

    Args:
        sizes: Height and width of the images, int64 of shape (num_samples, 2).
        config: With the side and the colour profiles that the user asks for.
        preprocessing: Preprocessing of an existing network.
    """
    color_profiles = choose_color_profiles(config, preprocessing)
    if preprocessing is not None:
        return replace(EvalView.of(preprocessing), color_profiles=color_profiles)
    size, crop_ratio = eval_geometry(sizes, config.image_size)
    return EvalView(size, size, crop_ratio, color_profiles=color_profiles)


def stays_resident(
    sizes: Tensor,
    size: tuple[int, int],
    config: DataConfig,
    *,
    keep_encoded: bool,
    num_images: int | None = None,
) -> bool:
    """Return whether images are decoded once, at the size of the network's input, and stored in memory.

    Args:
        sizes: Height and width of all images, or of a sample of them; int64 of shape (number, 2).
        size: Height and width of the network's input in pixels.
        config: With `resident_mib`, the limit in MiB. Images that differ in size may use an eighth of it.
        keep_encoded: Whether images stay encoded that differ in size or are larger than the input.
        num_images: Number of all images if `sizes` is a sample.
    """
    same = bool((sizes == sizes[0]).all())
    if keep_encoded and (not same or int(sizes.max()) > max(size)):
        return False
    limit = config.resident_mib * 2**20
    return (num_images or len(sizes)) * 3 * size[0] * size[1] <= (limit if same else limit // 8)


def resize_known(
    images: Tensor,
    config: DataConfig,
    preprocessing: Preprocessing | None = None,
    *,
    workers: int | None,
    on_progress: Progress,
) -> tuple[Tensor, float]:
    """Resize the images of a known data set if its config or preprocessing requires it, exactly as images in files.

    Returns:
        The images, uint8 of shape (number, channels, height, width), and the crop ratio.
    """
    count, channels, height, width = images.shape
    view = choose_view(torch.tensor([[height, width]]), config, preprocessing)
    if (height, width) == (view.height, view.width) and view.crop_ratio == 1:
        return images, view.crop_ratio
    packed = [  # binary PGM or PPM: a header followed by the pixels
        b"P%d %d %d 255\n" % (5 if channels == 1 else 6, width, height) + image.tobytes()
        for image in images.permute(0, 2, 3, 1).numpy()
    ]
    resized = np.empty((count, channels, view.height, view.width), np.uint8)

    def resize_one(position: int, data: bytes) -> None:
        pixels = decode_eval_view(data, view, max_pixels=height * width)
        resized[position] = pixels.transpose(2, 0, 1)[:channels]

    names = [f"image {position}" for position in range(count)]
    scan_images(names, packed, resize_one, workers=workers, on_progress=stage_progress(on_progress, "resizing"))
    return torch.from_numpy(resized), view.crop_ratio


def image_sizes(
    listing: DatasetListing,
    names: Sequence[str],
    storage: Sequence[ImageStorage],
    *,
    max_pixels: int,
    workers: int | None,
    on_progress: Progress,
) -> tuple[Tensor, list[str]]:
    """Return the size of every image, and every bad image as `NAME: REASON`.

    Sizes in an index are trusted; otherwise the header of each image is read.

    Returns:
        Height and width, int64 of shape (number, 2), zeros for a bad image; and the list of bad images.
    """
    known = [split.sizes for split in listing.splits.values() if split.sizes is not None]
    if len(known) < len(listing.splits):
        headers, bad = scan_headers(
            names,
            storage,
            max_pixels,
            workers=workers,
            on_progress=stage_progress(on_progress, "measuring"),
        )
        return torch.tensor([(header.height, header.width) if header else (0, 0) for header in headers]), bad
    sizes = torch.from_numpy(np.concatenate(known))
    too_large = torch.nonzero(sizes.prod(1) > max_pixels).flatten().tolist()
    megapixels = max_pixels / 1e6
    bad = [
        f"{names[row]}: has {sizes[row, 1]:,} x {sizes[row, 0]:,} pixels, more than {megapixels:g} megapixels"
        for row in too_large
    ]
    sizes[too_large] = 0
    return sizes, bad


def shard_numbers(listing: DatasetListing) -> Tensor | None:
    """Return the shard of each image, numbered across all splits; `None` if images can be read in any order."""
    numbers, first = [], 0
    for split in listing.splits.values():
        if split.shards is None:
            return None
        numbers.append(split.shards + first)
        first += int(split.shards.max(initial=-1)) + 1
    return torch.from_numpy(np.concatenate(numbers))
