"""Headers that claim more pixels than their bytes can encode, and valid images with extreme compression."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from resnetlab.data.images.decode import BadImageError, decode, read_header
from resnetlab.data.images.sniff import detect_format, implausible_size

N = 5000
"""Side in pixels of the images of one colour."""


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def solid(mode: str, colour: object = 0, side: int = N) -> Image.Image:
    return Image.new(mode, (side, side), colour)  # pyright: ignore[reportArgumentType]


EXTREME = {
    "png": lambda: encode(solid("RGB", "teal"), "PNG", compress_level=9),
    "png grey": lambda: encode(solid("L", 7), "PNG", compress_level=9),
    "png 1-bit": lambda: encode(solid("1", 1), "PNG", compress_level=9),
    "png palette of 1 bit": lambda: encode(solid("L").quantize(2), "PNG", compress_level=9),
    "png rgba": lambda: encode(solid("RGBA", (1, 2, 3, 4)), "PNG", compress_level=9),
    "png of 1 row": lambda: encode(Image.new("1", (2_000_000, 1)), "PNG", compress_level=9),
    "png of 1 column": lambda: encode(Image.new("1", (1, 2_000_000)), "PNG", compress_level=9),
    "gif": lambda: encode(solid("P", 3), "GIF"),
    "gif of two colours": lambda: encode(solid("1"), "GIF"),
    "jpeg": lambda: encode(solid("RGB", "teal"), "JPEG", quality=1, optimize=True),
    "jpeg grey": lambda: encode(solid("L", 128), "JPEG", quality=1, optimize=True),
    "jpeg progressive": lambda: encode(solid("RGB", "teal"), "JPEG", quality=1, progressive=True),
    "jpeg progressive grey": lambda: encode(solid("L", 128), "JPEG", quality=1, progressive=True),
    "webp": lambda: encode(solid("RGB", "teal", 2000), "WEBP", quality=0, method=0),
    "webp lossless": lambda: encode(solid("RGB", "teal"), "WEBP", lossless=True, method=0),
    "bmp": lambda: encode(solid("L", 7, 1100), "BMP"),
    "bmp 1-bit": lambda: encode(solid("1", 1), "BMP"),
    "tiff": lambda: encode(solid("L", 7, 1100), "TIFF"),
    "tiff 1-bit": lambda: encode(solid("1", 1), "TIFF"),
    "tiff group 3": lambda: encode(solid("1", 1), "TIFF", compression="group3"),
    "tiff group 4": lambda: encode(solid("1", 1), "TIFF", compression="group4"),
    "tiff lzw": lambda: encode(solid("L", 7), "TIFF", compression="tiff_lzw"),
    "tiff deflate": lambda: encode(solid("1", 1), "TIFF", compression="tiff_adobe_deflate"),
    "tiff packbits": lambda: encode(solid("1", 1), "TIFF", compression="packbits"),
    "tiff jpeg": lambda: encode(solid("RGB", "teal", 2000), "TIFF", compression="jpeg"),
    "tiff zstd": lambda: encode(solid("RGB", "teal"), "TIFF", compression="zstd"),
    "ppm": lambda: encode(solid("RGB", "teal", 1100), "PPM"),
    "pbm": lambda: encode(solid("1", 1), "PPM"),
    "pbm, plain": lambda: b"P1 1100 1100\n" + b"0" * 1100**2,
    "pgm, plain": lambda: b"P2 1100 1100 9\n" + b"7 " * (1100**2 - 1) + b"7",
}


@pytest.mark.parametrize("name", EXTREME)
def test_no_valid_image_is_refused(name):
    data = EXTREME[name]()
    header = read_header(data)  # this checks the size, except for JPEG
    assert header.height * header.width > 1_000_000
    tags = getattr(Image.open(BytesIO(data)), "tag_v2", None)
    assert implausible_size(data, header.format, height=header.height, width=header.width, tags=tags) is None


@pytest.mark.parametrize("name", ["png 1-bit", "gif of two colours", "jpeg progressive grey", "tiff group 4"])
def test_images_with_extreme_compression_are_decoded(name):
    pixels = decode(EXTREME[name]())
    assert pixels.shape == (N, N, 3)
    assert (pixels == pixels[0, 0]).all()


def packed_png(width: int, height: int, length: int) -> bytes:
    """Return a grey PNG with `length` bytes of pixels, independent of the size that it claims."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(np.zeros(length, np.uint8).tobytes(), 9), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def claims_9000(kind: str) -> bytes:
    """Return about 2 KB that claim 9,000 x 9,000 pixels."""
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    if kind == "PNG":
        return packed_png(9000, 9000, 1_500_000)
    if kind == "PPM":
        return b"P6 9000 9000 255\n" + bytes(2000)
    data = encode(small, {"WebP": "WEBP"}.get(kind, kind))
    if kind == "JPEG":
        at, packed = data.index(b"\xff\xc0") + 5, struct.pack(">HH", 9000, 9000)
    elif kind == "GIF":
        at, packed = 6, struct.pack("<HH", 9000, 9000)
    elif kind == "BMP":
        at, packed = 18, struct.pack("<II", 9000, 9000)
    elif kind == "WebP":
        at, packed = data.index(b"\x9d\x01\x2a") + 3, struct.pack("<HH", 9000, 9000)
    else:
        start = struct.unpack_from("<I", data, 4)[0]
        at, packed = start + 2, struct.pack("<HHIIHHII", 256, 4, 1, 9000, 257, 4, 1, 9000)
    return data[:at] + packed + data[at + len(packed) :]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WebP"])
def test_an_implausible_size_is_refused_before_decoding(kind, monkeypatch):
    data = claims_9000(kind)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("was decoded"))
    monkeypatch.setattr("simplejpeg.decode_jpeg", lambda *_, **__: pytest.fail("was decoded"))
    with pytest.raises(BadImageError) as error:
        decode(data)
    assert str(error.value) == f"claims 9,000 x 9,000 pixels, but has only {len(data):,} bytes"
    if kind != "JPEG":
        with pytest.raises(BadImageError, match="but has only"):
            read_header(data)


def test_the_first_bytes_of_a_jpeg_are_not_checked():
    data = claims_9000("JPEG")
    assert read_header(data[:1000]).width == 9000


def test_the_bound_of_a_png_is_that_of_zlib():
    assert (
        implausible_size(packed_png(3000, 3000, 3000 * 3001), "PNG", height=3000, width=3000) is None
    )  # zeros, with a filter byte in each row
    assert implausible_size(packed_png(3000, 3000, 2800 * 3001), "PNG", height=3000, width=3000) is not None


def test_small_sizes_are_not_checked():
    dot = encode(Image.new("P", (1, 1)), "GIF")
    canvas = dot[:6] + struct.pack("<HH", 1000, 1000) + dot[10:]
    assert decode(canvas).shape == (1000, 1000, 3)


def test_encodings_without_a_bound_are_not_refused():
    for compression, refused in ((0, True), (1, False)):  # uncompressed, and run-length, which may leave pixels out
        header = struct.pack(
            "<2sIHHIIiiHHIIiiII", b"BM", 1078, 0, 0, 1078, 40, 9000, 9000, 1, 8, compression, 0, 0, 0, 256, 0
        )
        assert (implausible_size(header + bytes(1100), "BMP", height=9000, width=9000) is not None) == refused
    arithmetic = b"\xff\xd8\xff\xc9\x00\x0b\x08\x23\x28\x23\x28\x01\x01\x11\x00\xff\xda" + bytes(100)
    assert implausible_size(arithmetic, "JPEG", height=9000, width=9000) is None
    assert implausible_size(arithmetic.replace(b"\xff\xc9", b"\xff\xc0"), "JPEG", height=9000, width=9000) is not None
    assert implausible_size(b"RIFF....WEBPVP8L" + bytes(100), "WebP", height=9000, width=9000) is None
    assert implausible_size(b"", "PNG", height=9000, width=9000) is None  # the decoder reports a damaged header


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"P6 9 9 255\n", "PPM"),
        (b"P5\n", "PPM"),
        (b"P1010001.JPG", None),
        (b"PK\3\4", None),
        (b"RIFF\0\0\0\0WEBP", "WebP"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"", None),
    ],
)
def test_detect_format(head, kind):
    assert detect_format(head) == kind
