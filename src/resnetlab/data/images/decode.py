"""Encoded bytes into the pixels that a viewer shows: RGB, upright, 8 bits. What cannot be shown is a `BadImageError`.

The content decides, never a file's name. Colour profiles are not applied. Both decoders release the interpreter lock:
threads can share the work.
"""

import math
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from resnetlab.data.images.color_modes import is_negative, match_transparency, to_rgb
from resnetlab.data.images.libtiff import capture_errors
from resnetlab.data.images.sniff import detect_format, implausible_size, jpeg_segments

# Pillow's classes are called by themselves: `Image.open` has a pixel limit of its own, and knows formats without need.
PLUGINS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "PPM": PpmImageFile,
}
PILLOWS = re.compile(r"PIL\.")
"""Modules whose warnings (of odd metadata, mostly) are of no use to whoever trains."""
JPEG_MODES = {"Gray": "L", "CMYK": "CMYK", "YCCK": "CMYK"}
TALL = 4
"""An evaluation view looks at so many times the shorter side of a long image, at most."""


class BadImageError(ValueError):
    """An image that cannot be shown; the message is the reason alone, and whoever knows the file's name adds it."""


class TooLargeError(BadImageError):
    """An image that may be whole, and has more pixels than are allowed, or than there is memory for."""


@dataclass(frozen=True)
class Header:
    """What an image says of itself before its pixels are decoded."""

    format: str
    """`JPEG`, `PNG`, `WebP`, `GIF`, `BMP`, `TIFF` or `PPM`."""
    height: int
    """In pixels, as a viewer shows the image: after its EXIF orientation."""
    width: int
    mode: str
    """Pillow's name for its channels: `RGB`, `RGBA`, `L`, `LA`, `P`, `1`, `CMYK`, `I;16`, `I`, `F`, …"""


def read_header(data: bytes, max_pixels: int = 100_000_000) -> Header:
    """Read format, size and mode, and decode no pixel; of a JPEG the first bytes, up to its scan, suffice.

    Raises:
        BadImageError: for what is empty, no image, damaged, or claims more than `max_pixels`.
    """
    kind = _kind(data)
    with _reasons(kind, len(data)):
        if kind == "JPEG" and (found := _jpeg_header(data, max_pixels)):
            return found[0]
        image = _open(data, kind, max_pixels)
        height, width = image.height, image.width
        if kind != "JPEG":  # of which there may be but the first bytes
            _check_bytes(data, kind, image)
        height, width = (width, height) if _orientation(data, kind, image) >= 5 else (height, width)
        return Header(kind, height, width, image.mode)


def decode(data: bytes, max_pixels: int = 100_000_000, min_side: int | None = None) -> np.ndarray:
    """Decode an image: uint8 RGB of shape (height, width, 3), upright; of an animation the first frame.

    What is transparent shows white, as in documents and on most web pages. 16-bit grey is divided by 257; so are 32-bit
    integers, clipped. Floats are taken as 0 to 1, or as 0 to 255 where one is above 1. A TIFF whose zero is white is
    inverted, whatever its depth. Given `min_side`, a JPEG is decoded at half its size or less, in less time, where the
    shorter side then still has so many pixels.

    Raises:
        BadImageError: for what is empty, no image, damaged, truncated, or claims more than `max_pixels`.
    """
    return np.ascontiguousarray(_decode(data, max_pixels, min_side or 0, min_side or 0))


def decode_eval_view(data: bytes, size: int, crop_ratio: float = 1.0, max_pixels: int = 100_000_000) -> np.ndarray:
    """Decode the evaluation view, which is that of `resize_center_crop`: uint8 (size, size, 3).

    Raises:
        BadImageError: as `decode` does.
    """
    needed = 2 * round(size / crop_ratio)  # errors are measured here: more care than for a crop
    return resize_center_crop(_decode(data, max_pixels, needed, needed), size, crop_ratio)


def resize_center_crop(pixels: np.ndarray, size: int, crop_ratio: float = 1.0) -> np.ndarray:
    """Resize an image (height, width, 3), its shorter side to `size / crop_ratio`, and cut out the centre.

    With an antialiased triangle filter, as Pillow does; where nothing need be resized, pixels stay as they are.
    """
    shorter = round(size / crop_ratio)
    height, width = pixels.shape[:2]
    longest = TALL * min(height, width)  # 1 x 50,000 pixels would be resized to 224 x 11 million
    pixels = _centre(pixels, min(height, longest), min(width, longest))
    height, width = pixels.shape[:2]
    scale = shorter / min(height, width)
    return _centre(resize(pixels, round(height * scale), round(width * scale)), size, size)


def decode_crop(data: bytes, box: Sequence[float], size: int, max_pixels: int = 100_000_000) -> np.ndarray:
    """Decode a box of the upright image, resized: uint8 (size, size, 3).

    `box` is (top, left, height, width) as fractions of the image, inside it; its edges are rounded to whole pixels. A
    JPEG is decoded at half its size or less where the box then still has `size` pixels each way.

    Raises:
        BadImageError: as `decode` does.
    """
    top, left, height, width = box
    pixels = _decode(data, max_pixels, _needed(size, height), _needed(size, width))
    rows, columns = _span(top, height, pixels.shape[0]), _span(left, width, pixels.shape[1])
    return resize(pixels[rows, columns], size, size)


def _needed(size: int, fraction: float) -> int:
    """Return the side of an image of which a fraction has `size` pixels, and one more for rounding."""
    return min(65_535, math.ceil((size + 1) / max(fraction, 1e-6)))  # no JPEG is larger


def _span(start: float, length: float, total: int) -> slice:
    """Return the whole pixels nearest to a part of a side; at least one."""
    first = min(round(start * total), total - 1)
    return slice(first, max(first + 1, min(round((start + length) * total), total)))


def _kind(data: bytes) -> str:
    """Return the format that the first bytes tell."""
    if not data:
        raise BadImageError("is empty")
    if kind := detect_format(data):
        return kind
    raise BadImageError(f"not an image that can be read ({', '.join(PLUGINS)})")


@contextmanager
def _reasons(kind: str, num_bytes: int) -> Iterator[None]:
    """Turn whatever a decoder raises into one short reason."""
    try:
        yield
    except BadImageError:
        raise
    except MemoryError as error:
        raise TooLargeError("needs more memory than there is") from error
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"has more pixels than Pillow reads of a {kind}") from error
    except Exception as error:  # from OSError and SyntaxError to struct.error: damage shows in many ways
        text = str(error).split("\n")[0]
        if isinstance(error, EOFError) or "truncated" in text.lower():
            raise BadImageError(f"truncated after {num_bytes:,} bytes") from error
        raise BadImageError(f"damaged {kind} ({text or type(error).__name__})") from error


def _open(data: bytes, kind: str, max_pixels: int) -> ImageFile:
    """Open an image with Pillow, which reads its header."""
    # Not `catch_warnings`: it swaps the filters of the whole process, and threads would restore each other's.
    if not warnings.filters or warnings.filters[0][3] != PILLOWS:
        warnings.filterwarnings("ignore", module=PILLOWS.pattern)
    image = PLUGINS[kind](BytesIO(data))
    _check_pixels(image.height, image.width, max_pixels)
    return image


def _check_pixels(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise TooLargeError(f"claims {width:,} x {height:,} pixels, more than {max_pixels / 1e6:g} megapixels")


def _check_bytes(data: bytes, kind: str, claimed: Header | ImageFile) -> None:
    if reason := implausible_size(data, kind, claimed.height, claimed.width, getattr(claimed, "tag_v2", {})):
        raise BadImageError(reason)


def _jpeg_header(data: bytes, max_pixels: int) -> tuple[Header, int] | None:
    """Read a JPEG's header and orientation, ten times sooner than Pillow; `None` where that is left to Pillow."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    height, width = int(height), int(width)
    _check_pixels(height, width, max_pixels)
    turn = _jpeg_orientation(data)
    height, width = (width, height) if turn >= 5 else (height, width)
    return Header("JPEG", height, width, JPEG_MODES.get(colours, "RGB")), turn


def _decode(data: bytes, max_pixels: int, min_height: int, min_width: int) -> np.ndarray:
    """Decode upright RGB, perhaps a view of memory that lies otherwise; a JPEG with at least that height and width."""
    kind = _kind(data)
    with _reasons(kind, len(data)):
        found = _jpeg_header(data, max_pixels) if kind == "JPEG" else None
        if found is not None and found[0].mode != "CMYK":  # of Adobe's and others' CMYK Pillow knows which is inverted
            header, turn = found
            _check_bytes(data, kind, header)
            min_height, min_width = (min_width, min_height) if turn >= 5 else (min_height, min_width)
            with suppress(ValueError):  # strict about oddities that viewers overlook: then Pillow decides
                pixels = simplejpeg.decode_jpeg(data, min_height=min_height, min_width=min_width, min_factor=2)
                return _upright(pixels, turn)
        image = _open(data, kind, max_pixels)
        _check_bytes(data, kind, image)
        _load(data, kind, image)
        return _upright(to_rgb(image, negative=is_negative(image)), _orientation(data, kind, image))


def _load(data: bytes, kind: str, image: ImageFile) -> None:
    """Decode the pixels of an image that Pillow has opened."""
    if kind != "TIFF":
        image.load()
        if kind == "PNG":
            match_transparency(image, bits=data[24])
        return
    with capture_errors() as said:
        image.load()
    if said:
        raise BadImageError(f"damaged TIFF (libtiff: {said[0]})")


def _orientation(data: bytes, kind: str, image: ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8, that is left to us: Pillow itself turns a TIFF."""
    if kind in ("JPEG", "PNG"):
        return _jpeg_orientation(data) if kind == "JPEG" else _png_orientation(data)
    exif = image.info.get("exif", b"") if kind == "WebP" else b""
    return _exif_orientation(exif.removeprefix(b"Exif\0\0"), 0)  # which some programs write into a WebP as well


def _jpeg_orientation(data: bytes) -> int:
    """Look for EXIF among the segments before the scan."""
    for marker, at in jpeg_segments(data):
        if marker == 0xE1 and data.startswith(b"Exif\0\0", at + 4):
            return _exif_orientation(data, at + 10)
    return 1


def _png_orientation(data: bytes) -> int:
    """Look for EXIF among all chunks: it may stand behind the pixels."""
    at = 8
    while at + 8 <= len(data):
        if data.startswith(b"eXIf", at + 4):
            return _exif_orientation(data, at + 8)
        at += 12 + int.from_bytes(data[at : at + 4])
    return 1


def _exif_orientation(data: bytes, start: int) -> int:
    """Return the orientation that EXIF from `start` on tells; upright (1) where it tells none, or nonsense."""
    order = {b"II": "<", b"MM": ">"}.get(data[start : start + 2])
    if order is not None:
        with suppress(struct.error):
            at = start + struct.unpack_from(order + "I", data, start + 4)[0]
            for entry in range(struct.unpack_from(order + "H", data, at)[0]):
                tag, turn = struct.unpack_from(order + "H6xH", data, at + 2 + 12 * entry)
                if tag == 0x0112 and 1 <= turn <= 8:
                    return turn
    return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror pixels as an EXIF orientation asks, without copying them."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def _centre(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize with Pillow's antialiased triangle filter; PyTorch's kernel takes a quarter of Pillow's time."""
    if pixels.shape[:2] == (height, width):
        return pixels
    images = torch.from_numpy(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)  # or it comes out by planes
    resized = F.interpolate(images, size=(height, width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()
