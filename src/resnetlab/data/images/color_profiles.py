"""Embedded ICC colour profiles: conversion of decoded pixels to sRGB, as an image viewer does it.

The effect of a profile decides, not its name. If no colour of a grid changes by more than `SAME` of 255, it is sRGB for
8 bits and the pixels stay as they are, to the last bit. A profile that cannot be used is logged once, and ignored.

The rendering intent is perceptual, Pillow's default; for profiles of three primaries it equals the relative
colorimetric one. PNG's gAMA, cHRM and cICP chunks, profiles in BMP files, and EXIF's mark for Adobe RGB are not read.
"""

import logging
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from resnetlab.data.images.sniff import jpeg_segments

Conversion = Callable[[np.ndarray], np.ndarray]
"""Convert uint8 pixels to sRGB: (..., 3) for RGB, (height, width, 4) to (height, width, 3) for CMYK, any for grey."""

SAME = 2
"""Largest change of a value that counts as none: profiles of sRGB by several makers differ by up to 2 of 255."""
MAX_CONVERSIONS = 32
"""Conversions that are kept; one for CMYK may need a MB."""
LOGGER = logging.getLogger("resnetlab.data.color_profiles")
_MARK = b"ICC_PROFILE\0"
_APP2 = 0xE2
_SPACES = {"L": ("GRAY", "RGB "), "RGB": ("RGB ",), "CMYK": ("CMYK",)}
"""Colour spaces of the profiles that fit images of grey, of RGB and of CMYK."""


class UnusableProfileError(ValueError):
    """A profile that is damaged or does not fit its image."""


def jpeg_profile(data: bytes) -> bytes | None:
    """Return the profile of a JPEG, joined from its segments, or `None` if there is none."""
    parts: dict[int, bytes] = {}
    for marker, start in jpeg_segments(data):
        if marker == _APP2 and data.startswith(_MARK, start + 4):
            end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
            parts[data[start + 16]] = data[start + 18 : end]
    return b"".join(parts[number] for number in sorted(parts)) if parts else None


def profile_conversion(profile: bytes | None, channels: str) -> Conversion | None:
    """Return the conversion of pixels to sRGB, or `None` if they stay as they are.

    Args:
        profile: The embedded profile, if any. One that cannot be used is logged and ignored.
        channels: `L`, `RGB` or `CMYK`.
    """
    if not profile:
        return None
    try:
        return _conversion(bytes(profile), channels)
    except UnusableProfileError as error:
        _log_once(str(error))
        return None


@lru_cache(maxsize=MAX_CONVERSIONS)
def profile_name(profile: bytes, mode: str) -> str:
    """Return a short description of an embedded profile for a table.

    Args:
        profile: The profile.
        mode: Pillow's mode of its image.

    Returns:
        The profile's own name, `sRGB` if it changes nothing, or `unusable`.
    """
    try:
        if _conversion(profile, mode_channels(mode)) is None:
            return "sRGB"
    except UnusableProfileError:
        return "unusable"
    name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile)))
    return " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())[:40] or "unnamed"


def mode_channels(mode: str) -> str:
    """Return the kind of channels, `L`, `RGB` or `CMYK`, of a mode of Pillow."""
    if mode == "CMYK":
        return mode
    return "L" if mode in ("1", "L", "LA", "La", "F") or mode.startswith("I") else "RGB"


@lru_cache(maxsize=MAX_CONVERSIONS)
def _conversion(profile: bytes, channels: str) -> Conversion | None:
    """Return the conversion for a profile, or `None` if it changes nothing.

    Raises:
        UnusableProfileError: If the profile is damaged or does not fit the channels.
    """
    transform = _transform(profile, channels)
    if channels == "CMYK":
        return lambda pixels: _apply(transform, pixels, "CMYK")
    if channels == "L":
        ramp = np.arange(256, dtype=np.uint8)
        table = _grey_table(transform)
        return None if _is_same(table, ramp) else lambda pixels: table[pixels]
    grid = np.stack(np.meshgrid(*[np.linspace(0, 255, 9).round().astype(np.uint8)] * 3), axis=-1).reshape(27, 27, 3)
    if _is_same(_apply(transform, grid, "RGB"), grid):
        return None
    return lambda pixels: _apply(transform, pixels, "RGB")


def _transform(profile: bytes, channels: str) -> ImageCms.ImageCmsTransform:
    """Return Little CMS's transform; it is used by several threads, so it keeps no cache of the last pixel."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = str(getattr(source.profile, "xcolor_space"))  # noqa: B009 - Pillow declares another type
        if space not in _SPACES[channels]:
            raise UnusableProfileError(f"it is for {space.strip() or 'unknown'} and its image has {channels}")
        mode = "L" if space == "GRAY" else channels if channels != "L" else "RGB"
        intent = ImageCms.Intent.PERCEPTUAL
        transform = ImageCms.buildTransform(source, _srgb(), mode, "RGB", intent, ImageCms.Flags.NOCACHE)
        table = _grey_table(transform) if mode != "CMYK" else None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError) as error:
        if isinstance(error, UnusableProfileError):
            raise
        raise UnusableProfileError(str(error).strip().split("\n")[0] or "damaged") from error
    if table is not None and not (table[255] >= 128 and 16 <= table[128] <= 240 and table[0] <= 64):
        raise UnusableProfileError("its curve makes all colours black or white")
    return transform


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    """Return the profile of sRGB; raise `ImportError` if Pillow was built without Little CMS."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _grey_table(transform: ImageCms.ImageCmsTransform) -> np.ndarray:
    """Return the sRGB value of each grey value, uint8 (256,)."""
    ramp = np.arange(256, dtype=np.uint8)[None]
    if transform.input_mode != "L":
        ramp = np.repeat(ramp[:, :, None], 3, axis=2)
    return _apply(transform, ramp, transform.input_mode)[0, :, 1]


def _apply(transform: ImageCms.ImageCmsTransform, pixels: np.ndarray, mode: str) -> np.ndarray:
    height, width = pixels.shape[:2]
    image = Image.frombytes(mode, (width, height), np.ascontiguousarray(pixels).tobytes())
    converted = transform.apply(image)
    return np.array(converted)


def _is_same(first: np.ndarray, second: np.ndarray) -> bool:
    return int(np.abs(first.astype(np.int16) - second.astype(np.int16)).max()) <= SAME


@lru_cache(maxsize=MAX_CONVERSIONS)
def _log_once(reason: str) -> None:
    LOGGER.warning("a colour profile is ignored (%s); resnetlab data check counts such images", reason)
