"""Brightness of colour pixels, for networks that read grey images."""

import numpy as np


def luma(pixels: np.ndarray) -> np.ndarray:
    """Return the brightness of uint8 RGB pixels, (..., 3) to (..., 1), by BT.601, rounded as in Pillow's mode L."""
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    return ((19_595 * red + 38_470 * green + 7_471 * blue + 0x8000) >> 16).astype(np.uint8)[..., None]
