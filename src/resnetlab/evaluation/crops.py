"""What a protocol shows a network of one picture: ten crops, or the whole of it at several sizes.

Paper: section 3.4. Pictures are uint8 arrays of shape (height, width, channels).
"""

from collections.abc import Iterator
from concurrent.futures import Executor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.config import Preprocessing
from resnetlab.data.images.decode import TALL, resize
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.transforms import normalise

SCALES = (224, 256, 384, 480, 640)
"""Shorter sides of the multi-scale protocol for a network of 224 pixels, and in proportion for others (section 3.4)."""
ROOM = 256 / 224
"""Shorter side over the crop's side where a network's own preprocessing leaves nothing to crop (section 3.4)."""


def shorter_side(preprocessing: Preprocessing) -> int:
    """Return the shorter side, in pixels, from which ten crops are cut: 256 for crops of 224."""
    ratio = 1 / preprocessing.crop_ratio
    return round(preprocessing.image_size * (ratio if ratio > 1 else ROOM))


def multi_scale_sides(preprocessing: Preprocessing) -> tuple[int, ...]:
    """Return the shorter sides, in pixels, at which the multi-scale protocol shows a picture."""
    return tuple(round(side * preprocessing.image_size / 224) for side in SCALES)


def resize_shorter_side(picture: np.ndarray, shorter: int) -> np.ndarray:
    """Resize a picture so that its shorter side is `shorter`; of a very long one the middle, as evaluation sees it."""
    height, width = picture.shape[:2]
    longest = TALL * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    picture = picture[top : top + min(height, longest), left : left + min(width, longest)]
    height, width = picture.shape[:2]
    factor = shorter / min(height, width)
    return resize(picture, round(height * factor), round(width * factor))


def ten_crops(picture: np.ndarray, size: int) -> np.ndarray:
    """Cut out the four corners and the centre, and mirror each: (10, size, size, channels). `size` at most its sides.

    Paper: section 3.4, "the standard 10-crop testing" of its reference [21].
    """
    height, width = picture.shape[:2]
    down, across = height - size, width - size
    corners = [(0, 0), (0, across), (down, 0), (down, across), (down // 2, across // 2)]
    crops = [picture[top : top + size, left : left + size] for top, left in corners]
    return np.stack([*crops, *(crop[:, ::-1] for crop in crops)])


def normalise_images(pictures: np.ndarray, preprocessing: Preprocessing | None) -> Tensor:
    """Turn pictures of one size (batch, height, width, channels) into what the network sees.

    A mean for each pixel is resized to pictures of another size. Without `preprocessing` only the layout changes: for a
    network that normalises them itself.
    """
    images = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    if preprocessing is None:
        return images
    size = preprocessing.image_size
    if not preprocessing.pixel_mean or images.shape[2:] == (size, size):
        return normalise(images, preprocessing)
    mean = torch.tensor(preprocessing.pixel_mean, dtype=torch.float32).view(1, -1, size, size)
    mean = F.interpolate(mean, size=images.shape[2:], mode="bilinear", antialias=True)
    return (images.float() / 255 - mean) / torch.tensor(preprocessing.std).view(1, -1, 1, 1)


def uncropped_images(
    images: Tensor | EncodedImages, batch_size: int, min_side: int, pool: Executor | None = None
) -> Iterator[tuple[Tensor, list[np.ndarray]]]:
    """Yield the positions, int64, and the pictures of a few samples after another, as large as `min_side` needs them.

    Raises:
        BadImageError: for an image that cannot be decoded, unless such images are left out.
    """
    for positions in torch.arange(len(images)).split(batch_size):
        if isinstance(images, Tensor):
            yield positions, list(images[positions].permute(0, 2, 3, 1).cpu().numpy())
            continue
        found = images.pictures(positions, min_side, pool)
        good = [at for at, picture in enumerate(found) if picture is not None]
        if good:
            yield positions[good], [picture for picture in found if picture is not None]
