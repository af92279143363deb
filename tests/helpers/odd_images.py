"""Hundreds of images that are damaged, misnamed, of unusual kinds, or claim a huge size; each with a unique name."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import count

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 90, 60
KINDS = {
    "jpg": ("JPEG", {"quality": 85}),
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "lossless.webp": ("WEBP", {"lossless": True}),
    "webp": ("WEBP", {"quality": 60}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tif": ("TIFF", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "ppm": ("PPM", {}),
}
HUGE = ((65_535, 65_535), (2**31 - 1, 2**31 - 1), (10_000, 10_000), (2**16, 2**16), (2**31 - 1, 2), (0x8000_0001, 2))
"""Width and height; the last three have products that overflow 32 bits, or are negative."""

_seeds = count()


def noisy_image(mode: str = "RGB", width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Return a new image on each call: a gradient between two colours, with noise."""
    rng = np.random.default_rng(next(_seeds))
    pixels = np.linspace(rng.uniform(0, 255, 3), rng.uniform(0, 255, 3), width)[None].repeat(height, 0)
    pixels[: height // 2] = pixels[: height // 2, ::-1] * rng.uniform(0.2, 1)
    noisy = pixels + rng.normal(0, 12, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an image in a format of Pillow."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def odd_images() -> dict[str, bytes]:
    """Return all images by name."""
    images: dict[str, bytes] = {}
    for group in (
        truncated_images(),
        damaged_images(),
        huge_claims(),
        color_modes(),
        multi_frame_images(),
        odd_shapes(),
        not_images(),
    ):
        for name, data in group:
            assert name not in images, name
            images[name] = data
    return images


def encode_as(suffix: str) -> bytes:
    """Return a new image in the format of a file name suffix."""
    kind, options = KINDS[suffix]
    return encode(noisy_image(), kind, **options)


def truncated_images() -> Iterator[tuple[str, bytes]]:
    """Truncate each format at every tenth of its length."""
    for suffix in (*KINDS, "interlaced.png"):
        data = interlaced() if suffix == "interlaced.png" else encode_as(suffix)
        for tenth in range(10):
            yield f"cut{tenth}.{suffix}", data[: len(data) * tenth // 10]


def damaged_images() -> Iterator[tuple[str, bytes]]:
    """Overwrite, zero, invert or extend the bytes of each format."""
    for suffix in KINDS:
        data = encode_as(suffix)
        middle = slice(len(data) * 4 // 10, len(data) * 6 // 10)
        hole = len(data[middle])
        yield f"magic.{suffix}", b"XXXX" + data[4:]
        yield f"zeroed.{suffix}", data[: middle.start] + bytes(hole) + data[middle.stop :]
        yield f"flipped.{suffix}", data[: middle.start] + bytes(255 - b for b in data[middle]) + data[middle.stop :]
        yield f"zeros.{suffix}", bytes(len(data))
        yield f"trailing.{suffix}", data + b"garbage" * 100
        yield f"twice.{suffix}", encode_as(suffix) + data


def huge_claims() -> Iterator[tuple[str, bytes]]:
    """Patch the size in headers of real images; it wraps around if the format's fields are narrower."""
    for number, (width, height) in enumerate(HUGE):
        yield f"huge{number}.png", png_of_size(encode_as("png"), width, height)
        yield f"huge{number}.interlaced.png", png_of_size(interlaced(), width, height)
        for suffix in ("jpg", "progressive.jpg"):
            data = encode_as(suffix)
            at = data.index(b"\xff\xc2" if "progressive" in suffix else b"\xff\xc0") + 5
            yield f"huge{number}.{suffix}", patch(data, at, ">HH", height & 0xFFFF, width & 0xFFFF)
        data = patch(encode_as("gif"), 6, "<HH", width & 0xFFFF, height & 0xFFFF)
        yield f"huge{number}.screen.gif", data
        yield f"huge{number}.gif", patch(data, data.index(b",\0\0\0\0") + 5, "<HH", width & 0xFFFF, height & 0xFFFF)
        yield f"huge{number}.bmp", patch(encode_as("bmp"), 18, "<II", width, height)
        yield f"huge{number}.ppm", b"P6 %d %d 255\n" % (width, height) + encode_as("ppm")[-5400:]
        yield f"huge{number}.plain.ppm", b"P3 %d %d 255\n" % (width, height) + b"12 34 56 " * 100
        for suffix in ("tif", "lzw.tif"):
            data = tiff_of_size(encode_as(suffix), width, height)
            yield f"huge{number}.{suffix}", data
        if width != 10_000:  # below the limit on pixels, and without a bound on bytes: data/images/sniff.py
            yield f"huge{number}.lossless.webp", lossless_of_size(min(width, 16_384), min(height, 16_384))
        lossy = encode_as("webp")
        at = lossy.index(b"\x9d\x01\x2a") + 3
        yield f"huge{number}.webp", patch(lossy, at, "<HH", min(width, 16_383), min(height, 16_383))


def color_modes() -> Iterator[tuple[str, bytes]]:
    """Encode every mode of Pillow that a format supports."""
    for kind, suffix, supported in (
        ("PNG", "png", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        ("TIFF", "tif", ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I", "F")),
        ("JPEG", "jpg", ("1", "L", "RGB", "RGBX", "CMYK", "YCbCr")),
        ("WEBP", "webp", ("RGB", "RGBA", "RGBX")),
        ("GIF", "gif", ("1", "L", "P")),
        ("BMP", "bmp", ("1", "L", "P", "RGB", "RGBA")),
        ("PPM", "ppm", ("1", "L", "RGB", "I;16", "I", "F")),
    ):
        for mode in supported:
            yield f"mode {mode.replace(';', '')}.{suffix}", encode(in_mode(mode), kind)
    for name in ("group3", "group4"):
        yield f"{name}.tif", encode(noisy_image("1"), "TIFF", compression=name)


def in_mode(mode: str) -> Image.Image:
    """Return a new image in a mode of Pillow."""
    if mode == "I;16":
        return Image.fromarray(np.asarray(noisy_image("L")).astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(np.asarray(noisy_image("L")).astype(np.int32) * 250)
    if mode == "F":
        return Image.fromarray(np.asarray(noisy_image("L")).astype(np.float32) / 255)
    if mode in ("LA", "PA"):
        image = noisy_image("L").convert(mode[0])
        image.putalpha(noisy_image("L"))
        return image
    if mode == "LAB":
        return Image.merge("LAB", noisy_image("RGB").split())
    return noisy_image(mode)


def multi_frame_images() -> Iterator[tuple[str, bytes]]:
    """Encode animations and multi-page files, complete and truncated."""
    for suffix in ("gif", "webp", "png", "tif"):
        kind = KINDS[suffix][0]
        for name, quarters in (("frames", 4), ("frames cut", 3)):
            data = encode(noisy_image(), kind, save_all=True, append_images=[noisy_image() for _ in range(3)])
            yield f"{name}.{suffix}", data[: len(data) * quarters // 4]


def odd_shapes() -> Iterator[tuple[str, bytes]]:
    """Encode very small and very long images, and images with an EXIF orientation."""
    for suffix, (kind, options) in KINDS.items():
        yield f"dot.{suffix}", encode(noisy_image(width=1, height=1), kind, **options)
        yield f"tall.{suffix}", encode(noisy_image(width=1, height=5000), kind, **options)
        yield f"wide.{suffix}", encode(noisy_image(width=5000, height=1), kind, **options)
    for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")):
        for orientation in (3, 6, 99):
            exif = Image.Exif()
            exif[0x0112] = orientation
            yield f"turned{orientation}.{suffix}", encode(noisy_image(), kind, exif=exif)
    yield "exif damaged.jpg", encode(noisy_image(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")


def not_images() -> Iterator[tuple[str, bytes]]:
    """Return files of other kinds with the suffix of an image, and images with a wrong suffix."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("image.png", encode_as("png"))
    for name, data in {
        "text": b"just some words\n" * 20,
        "page": b"<!DOCTYPE html><html><body>404</body></html>",
        "zip": archive.getvalue(),
        "empty": b"",
        "one byte": b"\xff",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "marker": b"\xff\xd8\xff",
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "nul": b"\0",
        "pickle": b"\x80\x04N.",
    }.items():
        yield f"{name}.jpg", data
    for suffix in ("png", "gif", "webp"):  # valid images with the wrong suffix
        yield f"in truth {suffix}.jpg", encode_as(suffix)


def interlaced() -> bytes:
    """Return an interlaced PNG (Adam7: seven passes, each row with a filter byte), which Pillow cannot write."""
    pixels = np.asarray(noisy_image())
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(
        b"\0" + row.tobytes() for top, left, down, across in passes for row in pixels[top::down, left::across]
    )
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 1)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(rows), b"IEND")
    packed = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + packed


def png_of_size(data: bytes, width: int, height: int) -> bytes:
    """Patch the size and the checksum in the header of a PNG, so that only the size is wrong."""
    data = patch(data, 16, ">II", width, height)
    return patch(data, 29, ">I", zlib.crc32(data[12:29]))


def tiff_of_size(data: bytes, width: int, height: int) -> bytes:
    """Patch width (tag 256), height (257) and rows per strip (278), as 32-bit values."""
    at = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, at)[0]):
        offset = at + 2 + 12 * entry
        tag = struct.unpack_from("<H", data, offset)[0]
        if tag in (256, 257, 278):
            data = patch(data, offset, "<HHII", tag, 4, 1, width if tag == 256 else height)
    return data


def lossless_of_size(width: int, height: int) -> bytes:
    """Return a lossless WebP whose header claims another size."""
    data = encode_as("lossless.webp")
    return patch(data, data.index(b"VP8L") + 9, "<I", (width - 1) | (height - 1) << 14)


def patch(data: bytes, at: int, layout: str, *values: int) -> bytes:
    """Overwrite bytes with packed numbers."""
    packed = struct.pack(layout, *values)
    return data[:at] + packed + data[at + len(packed) :]
