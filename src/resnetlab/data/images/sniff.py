"""Format detection, and a plausibility check of the size that an image's header claims.

A header is plausible if its format could encode that many pixels, at its best compression, in the bytes given. This
refuses a few bytes that claim a hundred million pixels before memory is allocated. No valid image is refused, except a
GIF that draws a dot on a canvas of more than a million pixels.

Some encodings have no such bound: lossless WebP (a single colour needs no bits per pixel), animated WebP, run-length
BMP, JPEG with arithmetic coding, and TIFF with rare compressions. For these, only the limit on pixels bounds memory.
"""

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
PPM = re.compile(rb"P[1-6f]\s")
PPM_HEADER = re.compile(rb"P[1-6f]\s+(#|\d+\s+\d)")
"""The start of a PPM, up to a comment or the size."""
UNCHECKED_PIXELS = 1_000_000
"""Images up to this size are not checked: they need little memory, and a GIF may leave such a canvas empty."""

# The most that one encoded byte can represent.
DEFLATE_BYTES = 1032
"""Bytes: each pair of bits copies 258 bytes (zlib's own figure)."""
LZW_VALUES = 2731
"""Values: a code of twelve bits stands for a string of up to 4,096 values."""
PACKBITS_BYTES = 64
"""Bytes: two bytes repeat one byte 128 times."""
JPEG_PIXELS = 2048
"""Pixels: a block of 64 pixels needs at least one bit (a progressive image with first coefficients only). The factor 4
is for subsampling: where components are sampled differently, none needs a block for each 64 pixels."""
WEBP_PIXELS = 2048
"""Pixels of a lossy WebP: each block of 256 pixels encodes its prediction mode in more than three bits at the fixed
probabilities of a key frame (RFC 6386, section 11); one bit is counted."""

MAX_SEGMENTS = 100_000
"""Segments of a JPEG that are read: a file of 16 MiB could have millions of empty ones, which takes seconds."""

_ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
"""Frame markers of a JPEG with arithmetic coding."""


def detect_format(head: bytes) -> str | None:
    """Return the format from the first 12 bytes of a file: `JPEG`, `PNG`, `WebP`, …; `None` if it is no image."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if PPM.match(head):  # the whitespace excludes a list of names that starts with P1010001.JPG
        return "PPM"
    return next((kind for signature, kind in SIGNATURES.items() if head.startswith(signature)), None)


def is_certain(head: bytes, kind: str) -> bool:
    """Return whether the first bytes of a file, 32 or more, confirm the format that `detect_format` found.

    Text may start as a BMP does (`BMW/1.jpg`) or as a PPM (`P1 `): where no suffix says that a file is an image, more
    of the header must be that of an image.
    """
    if kind == "BMP":
        return head[6:10] == b"\0\0\0\0"  # reserved bytes
    return kind != "PPM" or PPM_HEADER.match(head) is not None


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the marker and the offset of each segment of a JPEG before its first scan."""
    offset, end = 2, len(data) - 3
    for _ in range(MAX_SEGMENTS):
        if offset >= end or data[offset] != 0xFF:
            return
        marker = data[offset + 1]
        if marker == 0xDA:
            return
        if marker == 0xFF:  # a fill byte
            offset += 1
        else:
            yield marker, offset
            offset += 2 + (data[offset + 2] << 8 | data[offset + 3])


def implausible_size(
    data: bytes,
    kind: str,
    *,
    height: int,
    width: int,
    tags: Mapping[int, Any] | None = None,
) -> str | None:
    """Return the reason why an image of the claimed size cannot have these bytes, or `None` if it can.

    Args:
        data: All encoded bytes.
        kind: The format, as `detect_format` returns it.
        height: Height in pixels that the header claims.
        width: Width in pixels that the header claims.
        tags: Tags of a TIFF.
    """
    if height * width <= UNCHECKED_PIXELS:
        return None
    try:
        if _min_bytes(data, kind, height, width, tags or {}) <= len(data):
            return None
    except (struct.error, IndexError, KeyError, TypeError, ValueError):  # a damaged or unusual header
        return None
    return f"claims {width:,} x {height:,} pixels, but has only {len(data):,} bytes"


def _min_bytes(data: bytes, kind: str, height: int, width: int, tags: Mapping[int, Any]) -> float:
    """Return the minimum number of bytes for that many pixels in that format; 0 if unknown."""
    if kind == "TIFF":
        return _tiff(tags, height, width)
    by_format: dict[str, Callable[[bytes, int, int], float]] = {
        "JPEG": _jpeg,
        "PNG": _png,
        "GIF": _gif,
        "BMP": _bmp,
        "PPM": _ppm,
        "WebP": _webp,
    }
    return by_format[kind](data, height, width) if kind in by_format else 0


def _jpeg(data: bytes, height: int, width: int) -> float:
    if any(marker in _ARITHMETIC for marker, _ in jpeg_segments(data)):
        return 0
    return height * width / JPEG_PIXELS


def _png(data: bytes, height: int, width: int) -> float:
    depth, colour = data[24], data[25]
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    return height * _row_bytes(width, bits) / DEFLATE_BYTES


def _gif(data: bytes, height: int, width: int) -> float:
    return height * width / LZW_VALUES


def _webp(data: bytes, height: int, width: int) -> float:
    return height * width / WEBP_PIXELS if data[12:16] == b"VP8 " else 0


def _bmp(data: bytes, height: int, width: int) -> float:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:  # OS/2
        (bits,) = struct.unpack_from("<H", data, 24)
        return height * _row_bytes(width, bits)
    if header < 40:
        return 0
    bits, compression = struct.unpack_from("<HI", data, 28)
    uncompressed = compression in (0, 3, 6)  # 3 and 6: with bit masks
    return height * _row_bytes(width, bits) if uncompressed else 0


def _ppm(data: bytes, height: int, width: int) -> float:
    variant = data[:2]
    if variant == b"P4":
        return height * _row_bytes(width, 1)
    values = height * width * (3 if variant in (b"P3", b"P6") else 1)
    if variant in (b"P2", b"P3"):
        return 2 * values - 1  # a digit and a space
    return values * (4 if variant == b"Pf" else 1)


def _tiff(tags: Mapping[int, Any], height: int, width: int) -> float:
    compression = tags.get(259, 1)
    if compression in (2, 3, 4):  # fax: a white row of any width takes one bit or a few
        return height / 8
    if compression in (6, 7):
        return height * width / JPEG_PIXELS
    per_byte = {1: 1, 5: LZW_VALUES, 8: DEFLATE_BYTES, 32946: DEFLATE_BYTES, 32773: PACKBITS_BYTES}.get(compression)
    bits = min(tags.get(258, (1,)))
    samples = 1 if tags.get(262) == 6 else tags.get(277, 1)  # the chroma of YCbCr may be subsampled
    return 0 if per_byte is None else height * _row_bytes(width, bits * samples) / per_byte


def _row_bytes(width: int, bits: int) -> int:
    """Return the number of bytes in a row."""
    return -(-width * bits // 8)
