"""Pixels of any Pillow mode as a viewer shows them: 8-bit RGB, on white where they are transparent."""

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

WHITE_IS_ZERO = 0
"""The photometric interpretation of a negative, in TIFF 6.0."""


def to_rgb(image: Image.Image, *, negative: bool = False) -> np.ndarray:
    """Return the pixels of a loaded image of any mode as uint8 RGB in memory of their own.

    Grey of 16 bits, 32 bits or floats is scaled as `decode` says; where it is a `negative`, full scale becomes black.
    """
    if image.mode.startswith("I"):
        grey = _integers(image, negative)
    elif image.mode == "F":
        grey = _floats(image, negative)
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return np.array(white.convert("RGB"))
    else:
        return np.array(image.convert("RGB"))
    return np.repeat(grey[:, :, None], 3, axis=2)


def is_negative(image: Image.Image) -> bool:
    """Say whether an image's pixels are a negative still: Pillow inverts those of a TIFF up to 8 bits, no others."""
    if not isinstance(image, TiffImageFile) or not image.mode.startswith(("I", "F")):
        return False
    return image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO


def match_transparency(image: Image.Image, bits: int) -> None:
    """Bring a PNG's transparent colour, which has its `bits`, to the 8 bits that its pixels have in Pillow.

    Of 16-bit colour Pillow keeps the upper bytes: colours that have these in common become transparent together.
    """
    colour = image.info.get("transparency")
    if image.mode == "RGB" and bits == 16 and colour is not None:
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    elif image.mode == "L" and bits in (2, 4) and colour is not None:
        image.info["transparency"] = colour * 255 // (2**bits - 1)


def _integers(image: Image.Image, negative: bool) -> np.ndarray:
    values = np.asarray(image)
    full = values.clip(0, 65_535).astype(np.uint32)
    grey = (((65_535 - full if negative else full) + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # a value of all 16 bits
        grey[values == transparent] = 255
    return grey


def _floats(image: Image.Image, negative: bool) -> np.ndarray:
    values = np.nan_to_num(np.asarray(image), nan=0.0)
    full_scale = 255 if values.max() > 1 else 1
    values = values.clip(0, full_scale)
    return np.rint((full_scale - values if negative else values) * (255 / full_scale)).astype(np.uint8)
