"""EXIF orientation of encoded images, and pixels turned upright by it."""

import struct
from contextlib import suppress

import numpy as np
from PIL.ImageFile import ImageFile

from resnetlab.data.images.sniff import jpeg_segments

ORIENTATION_TAG = 0x0112
MAX_CHUNKS = 100_000
"""Chunks of a PNG that are searched: a file of 16 MiB could have a million empty ones, which takes seconds."""


def exif_orientation(data: bytes, kind: str, image: ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8, that is left to apply; 1 for a TIFF, which Pillow turns itself."""
    if kind in ("JPEG", "PNG"):
        return jpeg_orientation(data) if kind == "JPEG" else _png_orientation(data)
    exif = image.info.get("exif", b"") if kind == "WebP" else b""
    return _read_exif(exif.removeprefix(b"Exif\0\0"), 0)  # some programs write the JPEG prefix into a WebP as well


def jpeg_orientation(data: bytes) -> int:
    """Return the orientation from the EXIF segment before the first scan, or 1."""
    for marker, start in jpeg_segments(data):
        if marker == 0xE1 and data.startswith(b"Exif\0\0", start + 4):
            return _read_exif(data, start + 10)
    return 1


def is_transposed(orientation: int) -> bool:
    """Return whether an EXIF orientation swaps height and width."""
    return orientation >= 5


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return a view of pixels (height, width, channels), rotated and mirrored according to an EXIF orientation."""
    if is_transposed(orientation):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def _png_orientation(data: bytes) -> int:
    """Return the orientation from the EXIF chunk, which may follow the pixels, or 1."""
    start = 8
    for _ in range(MAX_CHUNKS):
        kind = data[start + 4 : start + 8]
        if kind == b"eXIf":
            return _read_exif(data, start + 8)
        if kind == b"IEND" or len(kind) < 4:
            break
        start += 12 + int.from_bytes(data[start : start + 4])
    return 1


def _read_exif(data: bytes, start: int) -> int:
    """Return the orientation from the EXIF data that begin at `start`, or 1 if it is missing or invalid."""
    byte_order = {b"II": "<", b"MM": ">"}.get(data[start : start + 2])
    if byte_order is not None:
        with suppress(struct.error):
            directory = start + struct.unpack_from(byte_order + "I", data, start + 4)[0]
            for entry in range(struct.unpack_from(byte_order + "H", data, directory)[0]):
                tag, value = struct.unpack_from(byte_order + "H6xH", data, directory + 2 + 12 * entry)
                if tag == ORIENTATION_TAG and 1 <= value <= 8:
                    return value
    return 1
