"""Resizing of decoded images, and the evaluation view of an image of any number of channels."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from resnetlab.config import Interpolation
from resnetlab.data.images.eval_view import EvalView, Layout

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resize(pixels: np.ndarray, height: int, width: int, interpolation: Interpolation = "bilinear") -> np.ndarray:
    """Resize an image, uint8 (height, width, channels), with antialiasing.

    PyTorch's bilinear kernel takes a quarter of Pillow's time, and its values differ from Pillow's by 2 at most. Its
    bicubic kernel differs by up to 4 at sharp edges, so bicubic is Pillow's.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    if interpolation != "bilinear":
        return resize_with_pillow(pixels, height, width, interpolation)
    # Contiguous and permuted: the result is then channels last as well.
    images = torch.from_numpy(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)
    resized = F.interpolate(images, size=(height, width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def resize_with_pillow(pixels: np.ndarray, height: int, width: int, interpolation: Interpolation) -> np.ndarray:
    """Resize an image, uint8 (height, width, channels), to exactly the values that Pillow gives for each channel."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(pixels).resize((width, height), FILTERS[interpolation]))
    # Channel by channel: Pillow has no images of five channels, and weights those of two and four by an alpha channel.
    channels = [
        np.asarray(Image.fromarray(np.ascontiguousarray(channel)).resize((width, height), FILTERS[interpolation]))
        for channel in np.moveaxis(pixels, 2, 0)
    ]
    return np.stack(channels, axis=2)


def resize_for(pixels: np.ndarray, view: EvalView) -> tuple[np.ndarray, Layout]:
    """Return an image, uint8 (height, width, channels), resized for its evaluation view, and the place of the view."""
    pixels = crop_center(pixels, *view.central_part(*pixels.shape[:2]))
    layout = view.layout(*pixels.shape[:2])
    kernel = resize if view.resize_rule == "resnetlab" else resize_with_pillow
    return kernel(pixels, layout.height, layout.width, view.interpolation), layout


def make_view(pixels: np.ndarray, view: EvalView) -> np.ndarray:
    """Return the evaluation view of an image: uint8 (height, width, channels) to (view.height, view.width, channels).

    If no resizing is needed, pixels are unchanged.
    """
    resized, layout = resize_for(pixels, view)
    first_row, first_column = max(0, layout.top), max(0, layout.left)
    inside = resized[first_row : first_row + view.height, first_column : first_column + view.width]
    if inside.shape[:2] == (view.height, view.width):
        return inside
    result = np.empty((view.height, view.width, pixels.shape[2]), np.uint8)
    result[:] = view.fill
    top, left = max(0, -layout.top), max(0, -layout.left)
    result[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return result


def crop_center(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the central `height` x `width` pixels of an image that is at least as large."""
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]
