"""Pictures to compare runtimes on: a few real photographs, noise, or the user's own; as a network sees them."""

from collections.abc import Mapping

import numpy as np

from resnetlab.config import Preprocessing
from resnetlab.data.images.decode import BadImageError, decode_eval_view, resize_center_crop

SMALLEST = 1 / 4
"""Side of the smallest crop over the shorter side of its photograph."""


def probe_photographs(preprocessing: Preprocessing, count: int) -> np.ndarray:
    """Return real pictures: uint8 (count, image_size, image_size, channels), RGB, or grey for one channel.

    Squares cut out of the two photographs that come with scikit-learn (a temple under a wide sky, a flower) in turn, at
    places and scales of their own; every second pair is mirrored. The same for the same arguments, and those of a
    smaller count are the first of a larger one.
    """
    from sklearn.datasets import load_sample_images

    sources = load_sample_images().images
    draws = np.random.default_rng(0)
    size, ratio = preprocessing.image_size, preprocessing.crop_ratio
    seen = []
    for index in range(count):
        crop = _square(sources[index % len(sources)], draws)
        seen.append(resize_center_crop(crop[:, ::-1] if index % 4 >= 2 else crop, size, ratio))
    return _channels(_stacked(seen, size), preprocessing)


def probe_noise(preprocessing: Preprocessing, count: int) -> np.ndarray:
    """Return pictures whose every pixel is drawn at random: uint8 (count, image_size, image_size, channels)."""
    size, channels = preprocessing.image_size, len(preprocessing.mean)
    return np.random.default_rng(1).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def user_images(encoded: Mapping[str, bytes], preprocessing: Preprocessing) -> np.ndarray:
    """Return the user's own pictures, by name: uint8 (len(encoded), image_size, image_size, channels).

    Raises:
        BadImageError: for one that cannot be decoded; the message names it.
    """
    size, ratio = preprocessing.image_size, preprocessing.crop_ratio
    seen = []
    for name, data in encoded.items():
        try:
            seen.append(decode_eval_view(data, size, ratio))
        except BadImageError as error:
            raise BadImageError(f"{name}: {error}") from error
    return _channels(_stacked(seen, size), preprocessing)


def luma(pixels: np.ndarray) -> np.ndarray:
    """Return the brightness of RGB pixels, (…, 3) to (…, 1), by the weights of BT.601, rounded as Pillow's "L" is."""
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    return ((19_595 * red + 38_470 * green + 7_471 * blue + 0x8000) >> 16).astype(np.uint8)[..., None]


def _square(photograph: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """Cut out a square, its side from SMALLEST of the shorter side up to all of it."""
    height, width = photograph.shape[:2]
    scale, down, across = draws.random(3)
    side = round(min(height, width) * SMALLEST**scale)
    top, left = int(down * (height - side + 1)), int(across * (width - side + 1))
    return photograph[top : top + side, left : left + side]


def _stacked(seen: list[np.ndarray], size: int) -> np.ndarray:
    return np.stack(seen) if seen else np.empty((0, size, size, 3), np.uint8)


def _channels(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    return luma(pixels) if len(preprocessing.mean) == 1 else pixels
