"""The image types that a `Predictor` accepts: checks, batches, and conversion to uint8 RGB pixels."""

from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from resnetlab.config import ColorProfiles
from resnetlab.data.images.color_modes import is_negative, to_rgb

SUPPORTED_INPUTS = (
    "a path, encoded bytes, a PIL image, a NumPy array (height, width, 3), a tensor (channels, height, width), or a "
    "list of these"
)


def is_batch(images: Any) -> bool:
    """Return whether the input is a batch: a list, a tuple, or an array or tensor with four dimensions."""
    return isinstance(images, list | tuple) or (isinstance(images, np.ndarray | Tensor) and images.ndim == 4)


def to_pixels(image: Any, color_profiles: ColorProfiles = "apply", *, channels: int = 3) -> np.ndarray:
    """Return the pixels of a PIL image, an array or a tensor: uint8 RGB (height, width, 3).

    With `channels` other than 3 and 1, arrays and tensors must have that number of channels, and keep it. Of a PIL
    image, the embedded colour profile is applied unless `color_profiles` is `ignore`.

    Raises:
        ValueError: The shape, the number of channels or the value range is not supported.
        TypeError: The type or the dtype is not supported.
    """
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"a PIL image of {image.width} x {image.height} has no pixels")
        if channels not in (1, 3):
            raise ValueError(f"a PIL image has no {channels} channels; give an array (height, width, {channels})")
        upright = ImageOps.exif_transpose(image)
        return to_rgb(upright, negative=is_negative(image), color_profiles=color_profiles)
    counts = (3, 1) if channels in (1, 3) else (channels,)
    if isinstance(image, Tensor):
        values = image.detach().cpu()
        values = values.double() if values.is_floating_point() else values  # NumPy has no bfloat16
        pixels = _to_uint8(values.numpy(), kind="a tensor", layout="(channels, height, width)", counts=counts)
    elif isinstance(image, np.ndarray):
        pixels = _to_uint8(image, kind="an array", layout="(height, width, channels)", counts=counts)
    else:
        raise TypeError(f"{type(image).__name__} is not a supported image type; give {SUPPORTED_INPUTS}")
    # PyTorch warns about arrays that are not writable.
    return np.require(np.broadcast_to(pixels, (*pixels.shape[:2], counts[0])), requirements=["C", "W"])


def _to_uint8(pixels: np.ndarray, *, kind: str, layout: str, counts: tuple[int, ...]) -> np.ndarray:
    """Return pixels as uint8 (height, width, channels), of one of the numbers of channels in `counts`.

    `kind` and `layout` are for the error messages; the layout says where the channels are.
    """
    shape = tuple(pixels.shape)
    channel_axis = 0 if layout.startswith("(channels") else -1
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    elif pixels.ndim == 3:
        pixels = np.moveaxis(pixels, channel_axis, -1)
    if pixels.ndim != 3 or pixels.shape[2] not in counts:
        transposed = pixels.ndim == 3 and shape[-1 - channel_axis] in counts
        expected = "3 channels or 1" if counts == (3, 1) else f"{counts[0]} channels"
        hint = "; its channels are on the wrong axis" if transposed else ""
        raise ValueError(f"{kind} of shape {shape} is not an image {layout} with {expected}{hint}")
    if pixels.size == 0:
        raise ValueError(f"{kind} of shape {shape} has no pixels")
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise TypeError(f"pixels must be uint8 (0 to 255) or floats (0 to 1), not {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())
    if not 0 <= low <= high <= 1:  # true for NaN as well
        raise ValueError(f"float pixels must be 0 to 1, not {low:g} to {high:g}; divide by 255, or give uint8")
    return np.rint(pixels.astype(np.float64) * 255).astype(np.uint8)
