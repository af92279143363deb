"""What an image's first bytes promise: its format, and a size that its bytes could hold at all.

A header is believed only as far as its format could pack pixels at its very best, so that a few bytes that claim a
hundred million pixels are refused before memory is taken. No valid image is, but for a GIF that draws a dot on a canvas
of more than a million pixels. Lossless WebP has no such bound: of a single colour it spends no bit on any pixel; nor
have WebP with several frames, run-length BMP, JPEG with arithmetic coding, and TIFF in compressions that are rare. Of
these the limit on pixels alone says what memory they take.
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
SMALL = 1_000_000
"""Pixels that take no memory worth guarding; so much canvas a GIF may leave empty."""

# The most that one byte can hold.
DEFLATED = 1032
"""Bytes: each bit pair copies 258 of them (zlib's own figure)."""
LZW = 2731
"""Values: twelve bits name a string of up to 4,096 of them."""
PACKED = 64
"""Bytes: two bytes repeat one 128 times."""
JPEG_PIXELS = 2048
"""Pixels: a block of 64 takes a bit at least (a progressive image of nothing but first coefficients); and four times as
many, since where components are sampled unlike, none need have a block for each 64 pixels."""
WEBP_PIXELS = 2048
"""Pixels of a lossy WebP: a block of 256 says how it is predicted, in more than three bits at the fixed odds of a key
frame (RFC 6386, section 11); one is counted."""

_ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
"""Markers of a JPEG's frame where it is not Huffman-coded."""


def detect_format(head: bytes) -> str | None:
    """Return the format that the first 12 bytes of a file tell: `JPEG`, `PNG`, `WebP`, …; `None` for no image."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if PPM.match(head):  # and not P1010001.JPG, which may begin a list of names
        return "PPM"
    return next((kind for signature, kind in SIGNATURES.items() if head.startswith(signature)), None)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the marker of each segment of a JPEG before its first scan, and where it begins."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data) and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
        else:
            yield data[at + 1], at
            at += 2 + int.from_bytes(data[at + 2 : at + 4])


def implausible_size(
    data: bytes, kind: str, height: int, width: int, tags: Mapping[int, Any] | None = None
) -> str | None:
    """Return why these bytes cannot be an image of so many pixels, `None` where they can.

    `height` and `width` are what the header claims, `tags` those of a TIFF.
    """
    if height * width <= SMALL:
        return None
    try:
        if _needed_bytes(data, kind, height, width, tags or {}) <= len(data):
            return None
    except (struct.error, IndexError, KeyError, TypeError, ValueError):  # a damaged header, or an odd one
        return None
    return f"claims {width:,} x {height:,} pixels, and {len(data):,} bytes cannot hold them"


def _needed_bytes(data: bytes, kind: str, height: int, width: int, tags: Mapping[int, Any]) -> float:
    """Return the least bytes that pixels of that format take; 0 where nobody knows."""
    if kind == "TIFF":
        return _tiff(tags, height, width)
    known: dict[str, Callable[[bytes, int, int], float]] = {
        "JPEG": _jpeg,
        "PNG": _png,
        "GIF": _gif,
        "BMP": _bmp,
        "PPM": _ppm,
        "WebP": _webp,
    }
    return known[kind](data, height, width) if kind in known else 0


def _jpeg(data: bytes, height: int, width: int) -> float:
    if any(marker in _ARITHMETIC for marker, _ in jpeg_segments(data)):
        return 0
    return height * width / JPEG_PIXELS


def _png(data: bytes, height: int, width: int) -> float:
    depth, colour = data[24], data[25]
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    return height * _row(width, bits) / DEFLATED


def _gif(data: bytes, height: int, width: int) -> float:
    return height * width / LZW


def _webp(data: bytes, height: int, width: int) -> float:
    return height * width / WEBP_PIXELS if data[12:16] == b"VP8 " else 0


def _bmp(data: bytes, height: int, width: int) -> float:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:  # OS/2
        (bits,) = struct.unpack_from("<H", data, 24)
        return height * _row(width, bits)
    if header < 40:
        return 0
    bits, compression = struct.unpack_from("<HI", data, 28)
    return height * _row(width, bits) if compression in (0, 3, 6) else 0  # plain, or plain with masks


def _ppm(data: bytes, height: int, width: int) -> float:
    variant = data[:2]
    if variant == b"P4":
        return height * _row(width, 1)
    values = height * width * (3 if variant in (b"P3", b"P6") else 1)
    if variant in (b"P2", b"P3"):
        return 2 * values - 1  # a digit and a space
    return values * (4 if variant == b"Pf" else 1)


def _tiff(tags: Mapping[int, Any], height: int, width: int) -> float:
    compression = tags.get(259, 1)
    if compression in (2, 3, 4):  # fax: a white row of any width is one bit, or a few
        return height / 8
    if compression in (6, 7):
        return height * width / JPEG_PIXELS
    packed = {1: 1, 5: LZW, 8: DEFLATED, 32946: DEFLATED, 32773: PACKED}.get(compression)
    bits = min(tags.get(258, (1,)))
    samples = 1 if tags.get(262) == 6 else tags.get(277, 1)  # of YCbCr the colours may be few
    return 0 if packed is None else height * _row(width, bits * samples) / packed


def _row(width: int, bits: int) -> int:
    """Return the bytes of a row, at so many bits a pixel."""
    return -(-width * bits // 8)
