"""Grey of more than 8 bits, negatives and transparent colours, compared with equivalent 8-bit images."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from resnetlab.data.images.color_modes import is_negative
from resnetlab.data.images.decode import decode
from resnetlab.data.images.errors import BadImageError

GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)


def encode_tiff(values: np.ndarray, **options) -> bytes:
    file = BytesIO()
    Image.fromarray(values).save(file, "TIFF", **options)
    return file.getvalue()


def as_negative(data: bytes) -> bytes:
    """Change the photometric interpretation of a TIFF (tag 262) from 1 to 0: zero is white."""
    black_is_zero = struct.pack("<HHIH", 262, 3, 1, 1)
    assert data.count(black_is_zero) == 1
    return data.replace(black_is_zero, struct.pack("<HHIH", 262, 3, 1, 0))


def encode_png(bits: int, colours: int, row: bytes, transparent: tuple[int, ...]) -> bytes:
    """Return a PNG with two equal rows of two pixels and a transparent colour."""
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
def test_a_tiff_whose_zero_is_white_is_inverted(values, compression):
    data = encode_tiff(values, compression=compression)
    np.testing.assert_array_equal(decode(data)[:, :, 0], GREY)
    np.testing.assert_array_equal(decode(as_negative(data))[:, :, 0], 255 - GREY)


@pytest.mark.parametrize("high", [300, 1000, 4095, 65_535, np.inf])
def test_floats_of_unknown_full_scale_are_refused(high):
    data = encode_tiff(np.array([[0, 0.5], [7, high]], np.float32))
    for variant in (data, as_negative(data)):
        with pytest.raises(BadImageError, match=r"grey floats up to .*, and 0 to 1 or .*; save it as 16-bit grey"):
            decode(variant)


def test_is_negative_excludes_images_that_pillow_inverts():
    for values, expected in ((GREY, False), (GREY.astype(np.uint16), True), (GREY.astype(np.float32), True)):
        assert is_negative(Image.open(BytesIO(as_negative(encode_tiff(values))))) == expected
        assert not is_negative(Image.open(BytesIO(encode_tiff(values))))
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
def test_transparent_grey_of_a_png_becomes_white(bits, row, transparent, other):
    assert decode(encode_png(bits, 0, row, (transparent,)))[0].tolist() == [[255] * 3, [other] * 3]


@pytest.mark.parametrize(
    ("bits", "row", "transparent", "other"),
    [
        (16, struct.pack(">6H", 1000, 2000, 60_000, 1000, 2000, 50_000), (1000, 2000, 60_000), [3, 7, 195]),
        (16, struct.pack(">6H", 3, 7, 234, 1000, 2000, 60_000), (3, 7, 234), [3, 7, 234]),
        (8, bytes((3, 7, 234, 4, 7, 234)), (3, 7, 234), [4, 7, 234]),
    ],
)
def test_a_transparent_colour_of_a_png_becomes_white(bits, row, transparent, other):
    assert decode(encode_png(bits, 2, row, transparent))[0].tolist() == [[255] * 3, other]
