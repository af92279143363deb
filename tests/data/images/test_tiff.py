"""TIFF layouts against arrays that the tests build: planes, depths, compressions, byte orders, strips and tiles."""

import itertools

import numpy as np
import pytest

from helpers.tiff_files import write_tiff
from resnetlab.data.images.decode import BadImageError, decode
from resnetlab.data.images.libtiff import MISSING_CODEC, readable_message

HEIGHT, WIDTH = 40, 50
GREY, INVERTED, RGB, CMYK = 1, 0, 2, 5


def values(channels: int, *, alpha: int | None = None) -> np.ndarray:
    """Return smooth channels from 0 to 1 that differ from each other; `alpha` rises from left to right."""
    rows, columns = np.linspace(0, 1, HEIGHT)[:, None], np.linspace(0.2, 1, WIDTH)[None]
    image = np.stack([rows * columns * (1 - 0.2 * channel) for channel in range(channels)], axis=2)
    if alpha is not None:
        image[:, :, alpha] = np.linspace(0, 1, WIDTH)[None]
    return image


def expected(pixels: np.ndarray, photometric: int, extra: tuple[int, ...]) -> np.ndarray:
    """Return RGB from 0 to 255 on white."""
    full = pixels / np.iinfo(pixels.dtype).max * 255
    if photometric in (GREY, INVERTED):
        grey = full[:, :, :1] if photometric == GREY else 255 - full[:, :, :1]
        colours = np.repeat(grey, 3, axis=2)
    elif photometric == RGB:
        colours = full[:, :, :3]
    else:
        colours = (255 - full[:, :, :3]) * (255 - full[:, :, 3:4]) / 255
    if extra == (2,):
        opacity = full[:, :, [pixels.shape[2] - 1]] / 255
        return colours * opacity + 255 * (1 - opacity)
    return colours


LAYOUTS = [
    layout
    for layout in itertools.product((1, 5, 8), (False, True), (False, True), (None, 16), (None, 7))
    if not (layout[1] and layout[0] == 1) and not (layout[3] and layout[4])
]
"""Compression, predictor, big endian, tile, rows per strip."""


@pytest.mark.parametrize("planar", [False, True], ids=["interleaved", "planar"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("photometric", "channels", "extra"),
    [(GREY, 1, ()), (INVERTED, 1, ()), (RGB, 3, ()), (RGB, 4, (2,)), (RGB, 4, (0,)), (CMYK, 4, ())],
)
def test_pixels_of_every_layout(photometric, channels, extra, bits, planar):
    alpha = 3 if extra == (2,) else None
    pixels = np.rint(values(channels, alpha=alpha) * (2**bits - 1)).astype(f"u{bits // 8}")
    want = expected(pixels, photometric, extra)
    for compression, predictor, big_endian, tile, rows in LAYOUTS:
        if photometric == INVERTED and bits == 16 and big_endian:
            continue  # Pillow does not know it: see below
        data = write_tiff(
            pixels,
            photometric=photometric,
            planar=planar,
            compression=compression,
            predictor=predictor,
            big_endian=big_endian,
            tile=tile,
            rows_per_strip=rows,
            extra=extra,
        )
        difference = np.abs(decode(data) - want).max()
        assert difference <= 2.6, (compression, predictor, big_endian, tile, rows)


@pytest.mark.parametrize("compression", [1, 8])
def test_planes_of_four_channels_without_a_meaning_are_exact_or_refused(compression):
    pixels = np.rint(values(4, alpha=3) * 255).astype("u1")
    for tile in (None, 16):
        data = write_tiff(pixels, planar=True, compression=compression, tile=tile)
        if compression == 1 and tile is None:
            assert np.abs(decode(data) - expected(pixels, RGB, (2,))).max() <= 2.1
        else:
            with pytest.raises(
                BadImageError, match="a TIFF with 4 planes one after the other, which is not read; save"
            ):
                decode(data)


def test_planes_of_grey_and_alpha_are_refused():
    pixels = np.rint(values(2, alpha=1) * 255).astype("u1")
    for compression in (1, 8):
        with pytest.raises(BadImageError, match="a TIFF with 2 planes one after the other"):
            decode(write_tiff(pixels, photometric=GREY, planar=True, compression=compression, extra=(2,)))


def test_twelve_bits_have_the_full_range():
    ramp = np.linspace(0, 4095, 64).astype(int)
    packed = bytearray()
    for first, second in zip(ramp[::2], ramp[1::2], strict=True):
        packed += bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
    data = write_tiff(np.frombuffer(bytes(packed), "u1").reshape(1, 96, 1), photometric=GREY, bits=12)
    data = data.replace(b"\0\1\4\0\1\0\0\0\x60\0\0\0", b"\0\1\4\0\1\0\0\0\x40\0\0\0")  # the width: 64 values
    assert np.abs(decode(data)[0, :, 0] - ramp / 4095 * 255).max() <= 1


@pytest.mark.parametrize(
    ("pixels", "options", "reason"),
    [
        (np.zeros((8, 8, 3), "f4"), {}, "a TIFF of 3 x 32-bit floats, which is not read; save it in 8 or 16 bits"),
        (np.zeros((8, 8, 3), "f2"), {}, "a TIFF of 3 x 16-bit floats"),
        (np.zeros((8, 8, 1), "f8"), {"photometric": GREY}, "a TIFF of 1 x 64-bit floats"),
        (np.zeros((8, 8, 1), "c8"), {"photometric": GREY}, "a TIFF of 1 x 64-bit complex floats"),
        (np.zeros((8, 8, 3), "u4"), {}, "a TIFF of 3 x 32-bit integers"),
        (np.zeros((8, 8, 3), "i2"), {}, "a TIFF of 3 x 16-bit signed integers"),
        (
            np.zeros((8, 8, 5), "u1"),
            {"photometric": GREY},
            "a TIFF of 5 x 8-bit integers, .*; save one band as grey or",
        ),
        (np.zeros((8, 8, 13), "u2"), {"photometric": GREY}, "a TIFF of 13 x 16-bit integers"),
        (np.zeros((8, 8, 2), "u2"), {"photometric": GREY, "extra": (2,)}, "a TIFF of 2 x 16-bit integers"),
        (np.zeros((8, 8, 5), "u1"), {"photometric": CMYK, "extra": (2,)}, "a TIFF of 5 x 8-bit integers in CMYK"),
        (np.zeros((8, 8, 3), "u2"), {"photometric": 8}, "a TIFF of 3 x 16-bit integers in CIELAB, .*; save it as RGB"),
        (np.zeros((8, 8, 3), "u1"), {"photometric": 9}, "a TIFF of 3 x 8-bit integers in ICCLAB"),
        (np.zeros((8, 8, 1), "u2"), {"photometric": 32803}, "a TIFF of raw sensor values"),
        (np.zeros((8, 8, 1), "u2"), {"photometric": INVERTED, "big_endian": True}, "a TIFF of 1 x 16-bit integers"),
        *(
            (np.zeros((8, 8, 1), "u1"), {"photometric": GREY, "bits": bits}, f"a TIFF of 1 x {bits}-bit integers")
            for bits in (3, 5, 6, 7)
        ),
    ],
)
def test_unread_varieties_are_named(pixels, options, reason):
    with pytest.raises(BadImageError, match=f"^{reason}") as error:
        decode(write_tiff(pixels, **options))
    assert "which is not read; " in str(error.value)


@pytest.mark.parametrize(("compression", "name"), [(34887, "LERC"), (34712, "JPEG 2000"), (34661, "JBIG")])
def test_unread_compressions_are_named(compression, name):
    data = write_tiff(np.zeros((8, 8, 1), "u1"), photometric=GREY)
    tag = b"\x03\x01\x03\0\1\0\0\0"
    data = data.replace(tag + b"\1\0", tag + compression.to_bytes(2, "little"))
    with pytest.raises(BadImageError, match=f"^a TIFF with {name} compression, which is not read; save it with LZW"):
        decode(data)


def test_cielab_of_eight_bits_is_read():
    lab = np.array([[[255, 0, 0], [0, 0, 0], [138, 0, 0], [136, 81, 70]]], np.uint8).repeat(
        4, 0
    )  # white … L 53 a 81 b 70
    want = np.array([[255, 255, 255], [0, 0, 0], [129, 129, 129], [254, 7, 0]])
    for profile in ([], [(34675, 7, list(b"no profile" * 30))]):
        got = decode(write_tiff(lab, photometric=8, tags=profile))[0].astype(int)
        assert np.abs(got - want).max() <= 12


def test_a_missing_codec_of_libtiff_is_no_damage():
    for message in ("%s compression support is not configured", "Compression scheme %u %s decoding is not implemented"):
        assert readable_message("TIFFOpen", message) == MISSING_CODEC


def test_a_damaged_header_is_called_damaged():
    data = write_tiff(np.zeros((8, 8, 3), "u1"))
    tag = b"\x06\x01\x03\0\1\0\0\0"  # the photometric interpretation
    with pytest.raises(BadImageError, match=r"^damaged TIFF \("):
        decode(data.replace(tag + b"\2\0", tag + b"\xee\xee"))
