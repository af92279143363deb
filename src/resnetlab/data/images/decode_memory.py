"""Memory that decoding an image takes, from its size: an upper bound by format, without decoding and without PyTorch.

Measured on images of 12 megapixels in every mode of a format, with and without a colour profile and an EXIF
orientation (docs/log.md, 2026-11-29): the peak of `decode_eval_view` over the memory before it.
"""

import re
import struct
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from resnetlab.data.images.sniff import detect_format, jpeg_segments

BYTES_PER_PIXEL = {"PNG": 24, "WebP": 34, "GIF": 16, "BMP": 18, "TIFF": 24, "PPM": 20}
"""Bytes per pixel of the formats that are decoded at full size: the worst mode, rounded up."""
JPEG_REDUCED, JPEG_FULL, JPEG_CMYK = 7, 16, 20
"""Bytes per pixel of a JPEG that is decoded at half its size or less, at full size, and with four channels."""
FIXED_BYTES = 8 << 20
"""Bytes that an image of any size may take: buffers, and libraries that its format loads."""
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of segments that contain the size of a JPEG."""
PPM_SPACE = rb"(?:\s|#[^\r\n]*+[\r\n])++"
PPM_SIZE = re.compile(rb"P[1-6f]" + PPM_SPACE + rb"(\d{1,12})" + PPM_SPACE + rb"(\d{1,12})\s")
MAX_PPM_HEADER = 4096
TIFF_TYPES = {3: "H", 4: "I", 16: "Q"}
MAX_TIFF_TAGS = 4096
MAX_BLOCKS = 10_000
"""Segments of a JPEG or blocks of a GIF that are read: a server reads headers between the requests of others."""


class Claim(NamedTuple):
    """Format and size that the first bytes of an image claim."""

    format: str
    height: int
    width: int
    is_cmyk: bool = False


def decode_memory(claim: Claim, min_side: int) -> int:
    """Return an upper bound on the bytes that decoding takes besides the encoded image.

    Args:
        claim: Format and size.
        min_side: Pixels that the shorter side must keep where a JPEG is decoded at a reduced size.
    """
    if claim.format != "JPEG":
        per_pixel = BYTES_PER_PIXEL[claim.format]
    elif claim.is_cmyk:
        per_pixel = JPEG_CMYK
    else:
        per_pixel = JPEG_REDUCED if min(claim.height, claim.width) >= 2 * min_side else JPEG_FULL
    return FIXED_BYTES + per_pixel * claim.height * claim.width


def read_claim(data: bytes) -> Claim | None:
    """Return format and size from the header of an image; `None` if they cannot be read.

    A decoder may see another size in a file that is made to deceive: compare with `decode.read_header` before decoding.
    """
    kind = detect_format(data[:12])
    if kind is None:
        return None
    try:
        claim = READERS[kind](data)
    except (struct.error, IndexError, KeyError):  # cut or damaged
        return None
    return claim if claim is not None and claim.height > 0 and claim.width > 0 else None


def excessive_blocks(data: bytes) -> str | None:
    """Return the reason why reading the header of an image would take seconds; `None` for every ordinary image.

    A file may have a million blocks of no content before its pixels, or a comment of megabytes in a PPM. Decoders in
    Python read these one by one. Encoders write blocks of kilobytes: one block per KiB of the file is allowed, and
    `MAX_BLOCKS` more.
    """
    kind, limit = detect_format(data[:12]), MAX_BLOCKS + len(data) // 1024
    with suppress(struct.error, IndexError):  # cut or damaged: the decoder says so
        if kind == "PNG" and _num_png_chunks(data, limit) == limit:
            return f"has more than {limit:,} chunks"
        if kind == "JPEG" and sum(1 for _ in islice(jpeg_segments(data), limit)) == limit:
            return f"has more than {limit:,} segments"
        if kind == "GIF" and _first_gif_frame(data, limit) is None:
            return f"has more than {limit:,} blocks before its first frame"
        if kind == "PPM" and len(data) > MAX_PPM_HEADER and _ppm(data) is None:
            return f"has no size within its first {MAX_PPM_HEADER:,} bytes"
    return None


def _num_png_chunks(data: bytes, limit: int) -> int:
    offset = 8
    for number in range(limit):
        kind = data[offset + 4 : offset + 8]
        if kind == b"IEND" or len(kind) < 4:
            return number
        offset += 12 + int.from_bytes(data[offset : offset + 4])
    return limit


def _jpeg(data: bytes) -> Claim | None:
    for marker, offset in islice(jpeg_segments(data), MAX_BLOCKS):
        if marker in JPEG_FRAMES:
            height, width, channels = struct.unpack_from(">HHB", data, offset + 5)
            return Claim("JPEG", height, width, channels == 4)
    return None


def _png(data: bytes) -> Claim:
    width, height = struct.unpack_from(">II", data, 16)
    return Claim("PNG", height, width)


def _webp(data: bytes) -> Claim | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return Claim("WebP", height, width)


def _gif(data: bytes) -> Claim | None:
    """Return the size of the canvas, or of the first frame where that is larger: decoders enlarge the canvas."""
    width, height = struct.unpack_from("<HH", data, 6)
    offset = _first_gif_frame(data, MAX_BLOCKS)
    if offset is None:
        return None
    if data[offset] == 0x2C:
        left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, offset + 1)
        width, height = max(width, left + frame_width), max(height, top + frame_height)
    return Claim("GIF", height, width)


def _first_gif_frame(data: bytes, max_blocks: int) -> int | None:
    """Return the offset of the first frame, or `None` if more than `max_blocks` blocks precede it."""
    offset, is_block = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0), False
    for _ in range(max_blocks):  # extensions: a label, and blocks preceded by their length, the last one empty
        if is_block:
            is_block = data[offset] != 0
            offset += 1 + data[offset]
        elif data[offset] == 0x21:
            is_block = True
            offset += 2
        else:
            return offset
    return None


def _bmp(data: bytes) -> Claim:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return Claim("BMP", abs(height), abs(width))


def _ppm(data: bytes) -> Claim | None:
    found = PPM_SIZE.match(data[:MAX_PPM_HEADER])
    return Claim("PPM", int(found[2]), int(found[1])) if found else None


def _tiff(data: bytes) -> Claim | None:
    """Return the largest size among the tags of the first image."""
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (offset,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, offset)
    if count > MAX_TIFF_TAGS:
        return None
    first, step, value_at = (offset + 8, 20, 12) if big else (offset + 2, 12, 8)
    sides = {256: 0, 257: 0}
    for entry in range(first, first + count * step, step):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in sides:
            sides[tag] = max(sides[tag], *struct.unpack_from(order + TIFF_TYPES[kind], data, entry + value_at))
    return Claim("TIFF", sides[257], sides[256])


READERS = {"JPEG": _jpeg, "PNG": _png, "WebP": _webp, "GIF": _gif, "BMP": _bmp, "TIFF": _tiff, "PPM": _ppm}
