"""Crops and sizes of an image in the test protocols: ten crops, or the whole image at several scales.

Paper: section 3.4. Images are uint8 arrays of shape (height, width, channels).
"""

from collections.abc import Iterator
from concurrent.futures import Executor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.config import ConfigError, Preprocessing
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.images.resample import resize_for
from resnetlab.data.transforms import normalise

MULTI_SCALE_SIDES = (224, 256, 384, 480, 640)
"""Shorter sides of the multi-scale protocol at an image size of 224 pixels; other sizes scale them (section 3.4)."""
RESIZE_RATIO = 256 / 224
"""Shorter side over crop size if the network's own preprocessing does not crop (section 3.4)."""


def ten_crop_side(preprocessing: Preprocessing) -> int:
    """Return the shorter side, in pixels, of the images that ten crops are cut from: 256 for crops of 224."""
    ratio = 1 / preprocessing.crop_ratio
    return round(preprocessing.image_size * (ratio if ratio > 1 else RESIZE_RATIO))


def check_ten_crops(preprocessing: Preprocessing, side: int) -> None:
    """Raise unless ten crops can be cut from images whose shorter side is `side`.

    Raises:
        ConfigError: if `side` is smaller than a crop, or the network's input is not square.
    """
    size = preprocessing.image_size
    if preprocessing.input_size != (size, size):
        raise ConfigError(
            f"ten crops are square, and the network reads {size} x {preprocessing.image_width} pixels; use --protocol "
            "one-crop"
        )
    if side < size:
        raise ConfigError(f"crops of {size} pixels cannot be cut from a shorter side of {side}; use {size} or more")


def multi_scale_sides(preprocessing: Preprocessing) -> tuple[int, ...]:
    """Return the shorter sides, in pixels, of the multi-scale protocol."""
    return tuple(round(side * preprocessing.image_size / 224) for side in MULTI_SCALE_SIDES)


def resize_shorter_side(image: np.ndarray, side: int, preprocessing: Preprocessing) -> np.ndarray:
    """Resize an image so that its shorter side is `side`, with the rule and interpolation of a preprocessing.

    Of a very long image only the centre is used, as in evaluation.
    """
    rule, interpolation = preprocessing.resize_rule, preprocessing.interpolation
    return resize_for(image, EvalView(side, side, resize_rule=rule, interpolation=interpolation))[0]


def ten_crops(image: np.ndarray, size: int) -> np.ndarray:
    """Cut out the four corners and the centre, and mirror each: (10, size, size, channels).

    Both sides of the image must be at least `size`.

    Paper: section 3.4, "the standard 10-crop testing" of its reference [21].
    """
    height, width = image.shape[:2]
    bottom, right = height - size, width - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    crops = [image[top : top + size, left : left + size] for top, left in corners]
    return np.stack([*crops, *(crop[:, ::-1] for crop in crops)])


def normalise_images(images: np.ndarray, preprocessing: Preprocessing | None) -> Tensor:
    """Convert uint8 images (batch, height, width, channels) to the network's input (batch, channels, height, width).

    A per-pixel mean is resized to the size of the images. Without `preprocessing` the images stay uint8, for engines
    that normalise them themselves.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    if preprocessing is None:
        return tensor
    size = preprocessing.input_size
    if not preprocessing.pixel_mean or tensor.shape[2:] == size:
        return normalise(tensor, preprocessing)
    mean = torch.tensor(preprocessing.pixel_mean, dtype=torch.float32).view(1, -1, *size)
    mean = F.interpolate(mean, size=tensor.shape[2:], mode="bilinear", antialias=True)
    return (tensor.float() / 255 - mean) / torch.tensor(preprocessing.std).view(1, -1, 1, 1)


def uncropped_images(
    images: Tensor | EncodedImages, batch_size: int, min_side: int, *, pool: Executor | None = None
) -> Iterator[tuple[Tensor, list[np.ndarray]]]:
    """Yield batches of positions, int64, and whole images, decoded so that the shorter side is at least `min_side`.

    Images whose original is smaller keep their size.

    Raises:
        BadImageError: if an image cannot be decoded, unless `images` skips such images.
    """
    for positions in torch.arange(len(images)).split(batch_size):
        if isinstance(images, Tensor):
            yield positions, list(images[positions].permute(0, 2, 3, 1).cpu().numpy())
            continue
        decoded = images.decode_full(positions, min_side, pool)
        good = [index for index, image in enumerate(decoded) if image is not None]
        if good:
            yield positions[good], [image for image in decoded if image is not None]
    if not isinstance(images, Tensor):
        images.confirm_shards()
