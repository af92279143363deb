"""Images for comparing runtimes: real photographs, noise, or the user's own, resized and cropped as in evaluation."""

from collections.abc import Mapping

import numpy as np

from resnetlab.config import Preprocessing
from resnetlab.data.images.decode import BadImageError, decode_eval_view, resize_center_crop

MIN_CROP = 1 / 4
"""Side of the smallest crop over the shorter side of its photograph."""
NUM_PHOTOGRAPHS, NUM_NOISE = 24, 8


def probe_images(preprocessing: Preprocessing) -> np.ndarray:
    """Return 24 photographs and 8 noise images: uint8 (32, image_size, image_size, channels)."""
    return np.concatenate([probe_photographs(preprocessing, NUM_PHOTOGRAPHS), probe_noise(preprocessing, NUM_NOISE)])


def probe_photographs(preprocessing: Preprocessing, count: int) -> np.ndarray:
    """Return real images: uint8 (count, image_size, image_size, channels), RGB, or grey for one channel.

    They are square crops of the two photographs in scikit-learn (a temple under a wide sky, a flower), alternately, of
    random position and size; every second pair is mirrored. The same arguments give the same images. A smaller count
    gives the first images of a larger one.
    """
    from sklearn.datasets import load_sample_images

    sources = load_sample_images().images
    rng = np.random.default_rng(0)
    size, ratio = preprocessing.image_size, preprocessing.crop_ratio
    views = []
    for index in range(count):
        crop = _random_square(sources[index % len(sources)], rng)
        views.append(resize_center_crop(crop[:, ::-1] if index % 4 >= 2 else crop, size, ratio))
    return _to_channels(_stack(views, size), preprocessing)


def probe_noise(preprocessing: Preprocessing, count: int) -> np.ndarray:
    """Return images of independent uniform pixels: uint8 (count, image_size, image_size, channels)."""
    size, channels = preprocessing.image_size, len(preprocessing.mean)
    return np.random.default_rng(1).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def user_images(encoded: Mapping[str, bytes], preprocessing: Preprocessing) -> np.ndarray:
    """Return the user's own images: uint8 (len(encoded), image_size, image_size, channels).

    Args:
        encoded: Encoded images by name.
        preprocessing: Image size and number of channels.

    Raises:
        BadImageError: An image cannot be decoded; the message has its name.
    """
    size, ratio = preprocessing.image_size, preprocessing.crop_ratio
    views = []
    for name, content in encoded.items():
        try:
            views.append(decode_eval_view(content, size, ratio, color_profiles=preprocessing.color_profiles))
        except BadImageError as error:
            raise BadImageError(f"{name}: {error}") from error
    return _to_channels(_stack(views, size), preprocessing)


def luma(pixels: np.ndarray) -> np.ndarray:
    """Return the brightness of uint8 RGB pixels, (..., 3) to (..., 1), by BT.601, rounded as in Pillow's mode L."""
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    return ((19_595 * red + 38_470 * green + 7_471 * blue + 0x8000) >> 16).astype(np.uint8)[..., None]


def _random_square(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut out a square whose side is MIN_CROP of the shorter side up to all of it."""
    height, width = photograph.shape[:2]
    scale, down, across = rng.random(3)
    side = round(min(height, width) * MIN_CROP**scale)
    top, left = int(down * (height - side + 1)), int(across * (width - side + 1))
    return photograph[top : top + side, left : left + side]


def _stack(views: list[np.ndarray], size: int) -> np.ndarray:
    return np.stack(views) if views else np.empty((0, size, size, 3), np.uint8)


def _to_channels(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    return luma(pixels) if len(preprocessing.mean) == 1 else pixels
