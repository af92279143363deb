"""Grey deeper than 8 bits, negatives, and colours that are transparent, each beside the 8-bit image it equals."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from resnetlab.data.images.color_modes import is_negative
from resnetlab.data.images.decode import decode

GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)


def tiff(values: np.ndarray, **options) -> bytes:
    file = BytesIO()
    Image.fromarray(values).save(file, "TIFF", **options)
    return file.getvalue()


def negative(data: bytes) -> bytes:
    """Say of a TIFF that its zero is white: tag 262 from 1 to 0."""
    black_is_zero = struct.pack("<HHIH", 262, 3, 1, 1)
    assert data.count(black_is_zero) == 1
    return data.replace(black_is_zero, struct.pack("<HHIH", 262, 3, 1, 0))


def png(bits: int, colours: int, row: bytes, transparent: tuple[int, ...]) -> bytes:
    """Write two equal rows of two pixels, and the colour that is transparent, all with their bits."""
    parts = (
        b"IHDR" + struct.pack(">IIBBBBB", 2, 2, bits, colours, 0, 0, 0),
        b"tRNS" + struct.pack(f">{len(transparent)}H", *transparent),
        b"IDAT" + zlib.compress((b"\0" + row) * 2),
        b"IEND",
    )
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    "values",
    [GREY, GREY.astype(np.uint16) * 257, GREY.astype(np.float32) / 255, GREY.astype(np.float32)],
    ids=["8 bits", "16 bits", "floats to 1", "floats to 255"],
)
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_whose_zero_is_white_is_a_negative(values, compression):
    data = tiff(values, compression=compression)
    np.testing.assert_array_equal(decode(data)[:, :, 0], GREY)
    np.testing.assert_array_equal(decode(negative(data))[:, :, 0], 255 - GREY)


def test_only_what_pillow_leaves_is_inverted():
    for values, left in ((GREY, False), (GREY.astype(np.uint16), True), (GREY.astype(np.float32), True)):
        assert is_negative(Image.open(BytesIO(negative(tiff(values))))) == left
        assert not is_negative(Image.open(BytesIO(tiff(values))))
        assert not is_negative(Image.fromarray(values))


@pytest.mark.parametrize(
    ("bits", "row", "transparent", "other"),
    [
        (16, struct.pack(">HH", 1000, 1001), 1000, 4),
        (16, struct.pack(">HH", 0, 65_535), 0, 255),
        (8, bytes((3, 4)), 3, 4),
        (4, b"\x34", 3, 68),
        (2, b"\x40", 1, 0),
        (1, b"\x40", 0, 255),
    ],
)
def test_the_transparent_grey_of_a_png_shows_white(bits, row, transparent, other):
    assert decode(png(bits, 0, row, (transparent,)))[0].tolist() == [[255] * 3, [other] * 3]


@pytest.mark.parametrize(
    ("bits", "row", "transparent", "other"),
    [
        (16, struct.pack(">6H", 1000, 2000, 60_000, 1000, 2000, 50_000), (1000, 2000, 60_000), [3, 7, 195]),
        (16, struct.pack(">6H", 3, 7, 234, 1000, 2000, 60_000), (3, 7, 234), [3, 7, 234]),
        (8, bytes((3, 7, 234, 4, 7, 234)), (3, 7, 234), [4, 7, 234]),
    ],
)
def test_the_transparent_colour_of_a_png_shows_white(bits, row, transparent, other):
    assert decode(png(bits, 2, row, transparent))[0].tolist() == [[255] * 3, other]
