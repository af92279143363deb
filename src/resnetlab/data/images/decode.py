"""Image decoding: encoded bytes to 8-bit RGB pixels, upright; `BadImageError` for bytes that cannot be decoded.

The format is detected from the content, never from a file's name. Embedded colour profiles are applied unless the
caller declines (`color_profiles.py`). Both decoders (libjpeg-turbo and Pillow) release the interpreter lock, so threads
decode in parallel.
"""

import math
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import simplejpeg
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from resnetlab.config import ColorProfiles, Interpolation
from resnetlab.data.images.color_modes import is_negative, match_transparency, to_rgb
from resnetlab.data.images.color_profiles import jpeg_profile, profile_conversion
from resnetlab.data.images.errors import BadImageError, TooLargeError, convert_errors
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.images.file_types import HEAD_BYTES, OTHER, identify, raw_photograph
from resnetlab.data.images.orientation import exif_orientation, is_transposed, jpeg_orientation, upright
from resnetlab.data.images.resample import make_view, resize
from resnetlab.data.images.sniff import detect_format, implausible_size
from resnetlab.data.images.tiff import PlanarTiffFile, check_tiff, load_tiff

# Pillow's classes are called directly: `Image.open` has its own pixel limit and knows formats that are not needed.
PLUGINS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": PlanarTiffFile,
    "PPM": PpmImageFile,
}
PILLOW_MODULES = re.compile(r"PIL\.")
"""Modules whose warnings are suppressed: they are mostly about unusual metadata and do not help in training."""
JPEG_MODES = {"Gray": "L", "CMYK": "CMYK", "YCCK": "CMYK"}
MAX_PIXELS = 100_000_000
"""Default limit on the pixels of one image."""


@dataclass(frozen=True)
class Header:
    """The properties of an image that are known before its pixels are decoded."""

    format: str
    """`JPEG`, `PNG`, `WebP`, `GIF`, `BMP`, `TIFF` or `PPM`."""
    height: int
    """In pixels, upright: after the EXIF orientation is applied."""
    width: int
    mode: str
    """Pillow's name of the channels: `RGB`, `RGBA`, `L`, `LA`, `P`, `1`, `CMYK`, `I;16`, `I`, `F`, …"""


def read_header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Read format, size and mode without decoding pixels; for a JPEG, the bytes before its scan suffice.

    Raises:
        BadImageError: If the bytes are empty, no image, damaged, or claim more than `max_pixels` pixels.
    """
    kind = _detect_format(data)
    with convert_errors(data, kind):
        if kind == "JPEG" and (found := _jpeg_header(data, max_pixels)):
            return found[0]
        image = _open(data, kind, max_pixels)
        height, width = image.height, image.width
        if kind != "JPEG":  # the bytes of a JPEG may be only its beginning
            _check_plausible(data, kind, image)
        height, width = (width, height) if is_transposed(exif_orientation(data, kind, image)) else (height, width)
        return Header(kind, height, width, image.mode)


def decode(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    min_side: int | None = None,
    *,
    color_profiles: ColorProfiles = "apply",
) -> np.ndarray:
    """Decode an image to uint8 RGB of shape (height, width, 3), upright; of an animation, the first frame.

    Transparent pixels become white, as in documents and on most web pages. 16-bit grey is divided by 257, and 32-bit
    integers are clipped to 16 bits first. Floats have the range 0 to 1, or 0 to 255 if any value is above 1. A TIFF
    whose zero is white is inverted at any depth.

    Args:
        data: The encoded bytes.
        max_pixels: Limit on the pixels of the image.
        min_side: If given, a JPEG may be decoded at a half, a quarter or an eighth of its size, which is faster, as
            long as the shorter side keeps this many pixels.
        color_profiles: Convert colours to sRGB by the embedded profile, or leave the pixels as they are.

    Raises:
        BadImageError: If the bytes are empty, no image, damaged, truncated, or claim more than `max_pixels` pixels.
    """
    sides = (min_side or 0, min_side or 0)
    return np.ascontiguousarray(_decode(data, max_pixels, *sides, color_profiles=color_profiles))


def decode_eval_view(data: bytes, view: EvalView, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image and apply `make_view`: uint8 (view.height, view.width, 3).

    Raises:
        BadImageError: As for `decode`.
    """
    min_side = view.jpeg_min_side
    pixels = _decode(data, max_pixels, min_side, min_side, color_profiles=view.color_profiles)
    return make_view(pixels, view)


def decode_crop(
    data: bytes,
    box: Sequence[float],
    size: int,
    *,
    max_pixels: int = MAX_PIXELS,
    color_profiles: ColorProfiles = "apply",
    interpolation: Interpolation = "bilinear",
) -> np.ndarray:
    """Decode an image, crop a box of the upright image and resize it: uint8 (size, size, 3).

    A JPEG is decoded at a reduced size if the box then still has `size` pixels in each direction.

    Args:
        data: The encoded bytes.
        box: Top, left, height and width as fractions of the image, inside it; edges are rounded to whole pixels.
        size: Side of the result in pixels.
        max_pixels: Limit on the pixels of the image.
        color_profiles: As for `decode`.
        interpolation: Kernel of the resizing.

    Raises:
        BadImageError: As for `decode`.
    """
    top, left, height, width = box
    sides = _side_needed(size, height), _side_needed(size, width)
    pixels = _decode(data, max_pixels, *sides, color_profiles=color_profiles)
    rows, columns = _pixel_slice(top, height, pixels.shape[0]), _pixel_slice(left, width, pixels.shape[1])
    return resize(pixels[rows, columns], size, size, interpolation)


def embedded_profile(data: bytes) -> bytes | None:
    """Return the ICC colour profile of an image, or `None` if there is none or the image cannot be opened."""
    with suppress(BadImageError):
        kind = _detect_format(data)
        if kind == "JPEG":
            return jpeg_profile(data)
        with convert_errors(data, kind):
            profile = _open(data, kind, MAX_PIXELS).info.get("icc_profile")
            return profile if isinstance(profile, bytes) and profile else None
    return None


def _side_needed(size: int, fraction: float) -> int:
    """Return the side of an image whose fraction has `size` pixels, with one pixel more for rounding."""
    return min(65_535, math.ceil((size + 1) / max(fraction, 1e-6)))  # the largest side of a JPEG


def _pixel_slice(start: float, length: float, total: int) -> slice:
    """Return the whole pixels nearest to a fractional interval of a side; at least one pixel."""
    first = min(round(start * total), total - 1)
    return slice(first, max(first + 1, min(round((start + length) * total), total)))


def _detect_format(data: bytes) -> str:
    """Return the format from the first bytes, or raise `BadImageError`."""
    if not data:
        raise BadImageError("is empty")
    kind = detect_format(data)
    found = raw_photograph(data[:HEAD_BYTES]) if kind == "TIFF" else None
    if kind is not None and found is None:
        return kind
    found = found or identify(data)
    if found == OTHER:
        raise BadImageError(f"not an image that can be read ({', '.join(PLUGINS)})")
    raise BadImageError(found.reason())


def _open(data: bytes, kind: str, max_pixels: int) -> ImageFile:
    """Open an image with Pillow, which reads its header."""
    # Not `catch_warnings`: it replaces the filters of the whole process, and threads would restore each other's.
    if not warnings.filters or warnings.filters[0][3] != PILLOW_MODULES:
        warnings.filterwarnings("ignore", module=PILLOW_MODULES.pattern)
    image = PLUGINS[kind](BytesIO(data))
    if isinstance(image, TiffImageFile):
        check_tiff(image)
    _check_pixels(image.height, image.width, max_pixels)
    return image


def _check_pixels(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise TooLargeError(f"claims {width:,} x {height:,} pixels, more than {max_pixels / 1e6:g} megapixels")


def _check_plausible(data: bytes, kind: str, header: Header | ImageFile) -> None:
    """Raise `BadImageError` if the bytes cannot contain as many pixels as the header claims."""
    tags = getattr(header, "tag_v2", {})
    if reason := implausible_size(data, kind, height=header.height, width=header.width, tags=tags):
        raise BadImageError(reason)


def _jpeg_header(data: bytes, max_pixels: int) -> tuple[Header, int] | None:
    """Read header and orientation of a JPEG, ten times faster than Pillow; `None` if only Pillow may read it."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    height, width = int(height), int(width)
    _check_pixels(height, width, max_pixels)
    orientation = jpeg_orientation(data)
    height, width = (width, height) if is_transposed(orientation) else (height, width)
    return Header("JPEG", height, width, JPEG_MODES.get(colours, "RGB")), orientation


def _decode(
    data: bytes, max_pixels: int, min_height: int, min_width: int, *, color_profiles: ColorProfiles
) -> np.ndarray:
    """Decode to upright RGB, possibly not contiguous; a JPEG may be reduced down to the minimum height and width."""
    kind = _detect_format(data)
    with convert_errors(data, kind):
        found = _jpeg_header(data, max_pixels) if kind == "JPEG" else None
        if found is not None and found[0].mode != "CMYK":  # only Pillow knows which CMYK files are inverted (Adobe)
            header, orientation = found
            _check_plausible(data, kind, header)
            if is_transposed(orientation):
                min_height, min_width = min_width, min_height
            # A strict decoder: if it rejects what viewers tolerate, Pillow gets its turn.
            with suppress(ValueError):
                pixels = simplejpeg.decode_jpeg(data, min_height=min_height, min_width=min_width, min_factor=2)
                if color_profiles == "apply" and (profile := jpeg_profile(data)):
                    convert = profile_conversion(profile, header.mode)
                    pixels = pixels if convert is None else convert(pixels)
                return upright(pixels, orientation)
        image = _open(data, kind, max_pixels)
        _check_plausible(data, kind, image)
        _load(data, kind, image)
        pixels = to_rgb(image, negative=is_negative(image), color_profiles=color_profiles)
        return upright(pixels, exif_orientation(data, kind, image))


def _load(data: bytes, kind: str, image: ImageFile) -> None:
    """Decode the pixels of an image that Pillow has opened."""
    if isinstance(image, TiffImageFile):
        load_tiff(image)
        return
    image.load()
    if kind == "PNG":
        match_transparency(image, bits=data[24])
