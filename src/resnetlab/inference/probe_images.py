"""Images for comparing runtimes: real photographs, noise, or the user's own, resized and cropped as in evaluation."""

from collections.abc import Mapping

import numpy as np

from resnetlab.config import Preprocessing
from resnetlab.data.images.decode import BadImageError, decode_eval_view
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.images.luma import luma
from resnetlab.data.images.resample import make_view
from resnetlab.serialization import check

MIN_CROP = 1 / 4
"""Side of the smallest crop over the shorter side of its photograph."""
NUM_PHOTOGRAPHS, NUM_NOISE = 24, 8


def probe_images(preprocessing: Preprocessing) -> np.ndarray:
    """Return 24 photographs and 8 noise images: uint8 (32, height, width, channels)."""
    return np.concatenate([probe_photographs(preprocessing, NUM_PHOTOGRAPHS), probe_noise(preprocessing, NUM_NOISE)])


def probe_photographs(preprocessing: Preprocessing, count: int) -> np.ndarray:
    """Return real images: uint8 (count, height, width, channels), RGB, grey for one channel, or RGB repeated.

    They are square crops of the two photographs in scikit-learn (a temple under a wide sky, a flower), alternately, of
    random position and size; every second pair is mirrored. The same arguments give the same images. A smaller count
    gives the first images of a larger one.
    """
    from sklearn.datasets import load_sample_images

    sources = load_sample_images().images
    rng = np.random.default_rng(0)
    view, channels, views = EvalView.of(preprocessing), len(preprocessing.mean), []
    for index in range(count):
        crop = _random_square(sources[index % len(sources)], rng)
        if channels not in (1, 3):  # red, green, blue, red, …
            crop = crop[:, :, np.arange(channels) % 3]
        pixels = make_view(crop[:, ::-1] if index % 4 >= 2 else crop, view)
        views.append(luma(pixels) if channels == 1 else pixels)
    return _stack(views, preprocessing)


def probe_noise(preprocessing: Preprocessing, count: int) -> np.ndarray:
    """Return images of independent uniform pixels: uint8 (count, height, width, channels)."""
    shape = (count, *preprocessing.input_size, len(preprocessing.mean))
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def user_images(encoded: Mapping[str, bytes], preprocessing: Preprocessing) -> np.ndarray:
    """Return the user's own images: uint8 (len(encoded), height, width, channels).

    Args:
        encoded: Encoded images by name.
        preprocessing: Geometry, colours and number of channels.

    Raises:
        ConfigError: The network reads neither RGB nor grey.
        BadImageError: An image cannot be decoded; the message has its name.
    """
    check_file_channels(len(preprocessing.mean))
    view, views = EvalView.of(preprocessing), []
    for name, content in encoded.items():
        try:
            pixels = decode_eval_view(content, view)
        except BadImageError as error:
            raise BadImageError(f"{name}: {error}") from error
        views.append(luma(pixels) if len(preprocessing.mean) == 1 else pixels)
    return _stack(views, preprocessing)


def check_file_channels(channels: int) -> None:
    """Raise unless a network of `channels` input channels can read image files, which are decoded to RGB or grey.

    Raises:
        ConfigError: For other numbers of channels.
    """
    check(
        channels in (1, 3),
        f"the network reads {channels} channels, and image files are decoded to 3 (RGB) or 1 (grey); give arrays "
        f"(height, width, {channels})",
    )


def _random_square(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut out a square whose side is MIN_CROP of the shorter side up to all of it."""
    height, width = photograph.shape[:2]
    scale, down, across = rng.random(3)
    side = round(min(height, width) * MIN_CROP**scale)
    top, left = int(down * (height - side + 1)), int(across * (width - side + 1))
    return photograph[top : top + side, left : left + side]


def _stack(views: list[np.ndarray], preprocessing: Preprocessing) -> np.ndarray:
    shape = (0, *preprocessing.input_size, len(preprocessing.mean))
    return np.stack(views) if views else np.empty(shape, np.uint8)
