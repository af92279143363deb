"""Conversion of any Pillow mode to 8-bit RGB; transparent pixels are composited on white."""

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from resnetlab.config import ColorProfiles
from resnetlab.data.images.color_profiles import mode_channels, profile_conversion
from resnetlab.data.images.errors import BadImageError

OVERSHOOT = 1.1
"""Times full scale up to which floats are clipped: a bicubic or Lanczos resize overshoots by less than a tenth."""
WHITE_IS_ZERO = 0
"""The photometric interpretation of a negative, in TIFF 6.0."""


def to_rgb(image: Image.Image, *, negative: bool = False, color_profiles: ColorProfiles = "apply") -> np.ndarray:
    """Return the pixels of a loaded image of any mode as a new uint8 RGB array (height, width, 3).

    Grey values of 16 bits, 32 bits or floats are scaled as documented in `decode`. If `negative` is true, they are
    inverted: full scale becomes black. With `color_profiles="apply"`, colours are converted to sRGB by the profile of
    the image; transparent pixels become white after that.
    """
    # Pillow converts CIELAB to sRGB itself.
    profile = image.info.get("icc_profile") if color_profiles == "apply" and image.mode != "LAB" else None
    convert = profile_conversion(profile, mode_channels(image.mode)) if isinstance(profile, bytes) else None
    if image.mode.startswith("I"):
        grey = _scale_integers(image, negative)
    elif image.mode == "F":
        grey = _scale_floats(image, negative)
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        colours = image.convert("RGBA")
        if convert is not None:
            converted = Image.fromarray(convert(np.array(colours.convert("RGB"))))
            converted.putalpha(colours.getchannel("A"))
            colours = converted
        white.alpha_composite(colours)
        return np.array(white.convert("RGB"))
    elif image.mode == "CMYK" and convert is not None:
        return convert(np.array(image))
    else:
        rgb = np.array(image.convert("RGB"))
        return rgb if convert is None else convert(rgb)
    return np.repeat((grey if convert is None else convert(grey))[:, :, None], 3, axis=2)


def is_negative(image: Image.Image) -> bool:
    """Return whether the pixels of an image must be inverted: Pillow inverts TIFF negatives only up to 8 bits."""
    if not isinstance(image, TiffImageFile) or not image.mode.startswith(("I", "F")):
        return False
    return image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO


def match_transparency(image: Image.Image, bits: int) -> None:
    """Scale the transparent colour of a PNG with `bits` per channel to the 8 bits of Pillow's pixels.

    Pillow discards the lower bytes of 16-bit colour: all colours that agree in the upper bytes become transparent.
    """
    colour = image.info.get("transparency")
    if image.mode == "RGB" and bits == 16 and colour is not None:
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    elif image.mode == "L" and bits in (2, 4) and colour is not None:
        image.info["transparency"] = colour * 255 // (2**bits - 1)


def _scale_integers(image: Image.Image, negative: bool) -> np.ndarray:
    """Return 16-bit or 32-bit grey as uint8; the transparent value becomes white."""
    values = np.asarray(image)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(BITSPERSAMPLE) == (12,):  # Pillow leaves 0 to 4095
        values = values * np.float32(65_535 / 4095)
    clipped = values.clip(0, 65_535).astype(np.uint32)
    grey = (((65_535 - clipped if negative else clipped) + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # a 16-bit value
        grey[values == transparent] = 255
    return grey


def _scale_floats(image: Image.Image, negative: bool) -> np.ndarray:
    """Return float grey as uint8; full scale is 255 if any value is above 1, else 1.

    Raises:
        BadImageError: If a value is above 255 by more than a resize may overshoot: its full scale is unknown.
    """
    values = np.nan_to_num(np.asarray(image), nan=0.0)
    if (high := float(values.max())) > 255 * OVERSHOOT:
        raise BadImageError(f"grey floats up to {high:.5g}, and 0 to 1 or 0 to 255 are read; save it as 16-bit grey")
    full_scale = 255 if values.max() > 1 else 1
    values = values.clip(0, full_scale)
    return np.rint((full_scale - values if negative else values) * (255 / full_scale)).astype(np.uint8)
