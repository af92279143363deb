"""Some hundreds of images that are damaged, misnamed, of odd kinds, or claim too much; each by a name of its own."""

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


def picture(mode: str = "RGB", width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Make a picture that no other one is like: two colours, and noise."""
    chance = np.random.default_rng(next(_seeds))
    pixels = np.linspace(chance.uniform(0, 255, 3), chance.uniform(0, 255, 3), width)[None].repeat(height, 0)
    pixels[: height // 2] = pixels[: height // 2, ::-1] * chance.uniform(0.2, 1)
    noisy = pixels + chance.normal(0, 12, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def strange_images() -> dict[str, bytes]:
    """Return every one by its name."""
    made: dict[str, bytes] = {}
    for part in (cut_short(), damaged(), huge(), modes(), several_frames(), odd_shapes(), not_images()):
        for name, data in part:
            assert name not in made, name
            made[name] = data
    return made


def one(suffix: str) -> bytes:
    kind, options = KINDS[suffix]
    return saved(picture(), kind, **options)


def cut_short() -> Iterator[tuple[str, bytes]]:
    """Cut each format at every tenth of its length."""
    for suffix in (*KINDS, "interlaced.png"):
        data = interlaced() if suffix == "interlaced.png" else one(suffix)
        for tenth in range(10):
            yield f"cut{tenth}.{suffix}", data[: len(data) * tenth // 10]


def damaged() -> Iterator[tuple[str, bytes]]:
    for suffix in KINDS:
        data = one(suffix)
        middle = slice(len(data) * 4 // 10, len(data) * 6 // 10)
        hole = len(data[middle])
        yield f"magic.{suffix}", b"XXXX" + data[4:]
        yield f"zeroed.{suffix}", data[: middle.start] + bytes(hole) + data[middle.stop :]
        yield f"flipped.{suffix}", data[: middle.start] + bytes(255 - b for b in data[middle]) + data[middle.stop :]
        yield f"zeros.{suffix}", bytes(len(data))
        yield f"trailing.{suffix}", data + b"garbage" * 100
        yield f"twice.{suffix}", one(suffix) + data


def huge() -> Iterator[tuple[str, bytes]]:
    """Patch headers of real images: sizes wrap around where the format's fields are narrower."""
    for number, (width, height) in enumerate(HUGE):
        yield f"huge{number}.png", png_of_size(one("png"), width, height)
        yield f"huge{number}.interlaced.png", png_of_size(interlaced(), width, height)
        for suffix in ("jpg", "progressive.jpg"):
            data = one(suffix)
            at = data.index(b"\xff\xc2" if "progressive" in suffix else b"\xff\xc0") + 5
            yield f"huge{number}.{suffix}", patch(data, at, ">HH", height & 0xFFFF, width & 0xFFFF)
        data = patch(one("gif"), 6, "<HH", width & 0xFFFF, height & 0xFFFF)
        yield f"huge{number}.screen.gif", data
        yield f"huge{number}.gif", patch(data, data.index(b",\0\0\0\0") + 5, "<HH", width & 0xFFFF, height & 0xFFFF)
        yield f"huge{number}.bmp", patch(one("bmp"), 18, "<II", width, height)
        yield f"huge{number}.ppm", b"P6 %d %d 255\n" % (width, height) + one("ppm")[-5400:]
        yield f"huge{number}.plain.ppm", b"P3 %d %d 255\n" % (width, height) + b"12 34 56 " * 100
        for suffix in ("tif", "lzw.tif"):
            data = tiff_of_size(one(suffix), width, height)
            yield f"huge{number}.{suffix}", data
        if width != 10_000:  # under the limit on pixels, and no bound of bytes: data/plausible.py
            yield f"huge{number}.lossless.webp", lossless_of_size(min(width, 16_384), min(height, 16_384))
        lossy = one("webp")
        at = lossy.index(b"\x9d\x01\x2a") + 3
        yield f"huge{number}.webp", patch(lossy, at, "<HH", min(width, 16_383), min(height, 16_383))


def modes() -> Iterator[tuple[str, bytes]]:
    for kind, suffix, its in (
        ("PNG", "png", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        ("TIFF", "tif", ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I", "F")),
        ("JPEG", "jpg", ("1", "L", "RGB", "RGBX", "CMYK", "YCbCr")),
        ("WEBP", "webp", ("RGB", "RGBA", "RGBX")),
        ("GIF", "gif", ("1", "L", "P")),
        ("BMP", "bmp", ("1", "L", "P", "RGB", "RGBA")),
        ("PPM", "ppm", ("1", "L", "RGB", "I;16", "I", "F")),
    ):
        for mode in its:
            yield f"mode {mode.replace(';', '')}.{suffix}", saved(in_mode(mode), kind)
    for name in ("group3", "group4"):
        yield f"{name}.tif", saved(picture("1"), "TIFF", compression=name)


def in_mode(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(picture("L")).astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(np.asarray(picture("L")).astype(np.int32) * 250)
    if mode == "F":
        return Image.fromarray(np.asarray(picture("L")).astype(np.float32) / 255)
    if mode in ("LA", "PA"):
        image = picture("L").convert(mode[0])
        image.putalpha(picture("L"))
        return image
    if mode == "LAB":
        return Image.merge("LAB", picture("RGB").split())
    return picture(mode)


def several_frames() -> Iterator[tuple[str, bytes]]:
    for suffix in ("gif", "webp", "png", "tif"):
        kind = KINDS[suffix][0]
        for name, quarters in (("frames", 4), ("frames cut", 3)):
            data = saved(picture(), kind, save_all=True, append_images=[picture() for _ in range(3)])
            yield f"{name}.{suffix}", data[: len(data) * quarters // 4]


def odd_shapes() -> Iterator[tuple[str, bytes]]:
    for suffix, (kind, options) in KINDS.items():
        yield f"dot.{suffix}", saved(picture(width=1, height=1), kind, **options)
        yield f"tall.{suffix}", saved(picture(width=1, height=5000), kind, **options)
        yield f"wide.{suffix}", saved(picture(width=5000, height=1), kind, **options)
    for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")):
        for orientation in (3, 6, 99):
            exif = Image.Exif()
            exif[0x0112] = orientation
            yield f"turned{orientation}.{suffix}", saved(picture(), kind, exif=exif)
    yield "exif damaged.jpg", saved(picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")


def not_images() -> Iterator[tuple[str, bytes]]:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("picture.png", one("png"))
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
    for suffix in ("png", "gif", "webp"):  # right, but for the name
        yield f"in truth {suffix}.jpg", one(suffix)


def interlaced() -> bytes:
    """Write an interlaced PNG, which Pillow cannot: the seven passes of Adam7, each with a filter byte a row."""
    pixels = np.asarray(picture())
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
    """Patch the header of a PNG, and its checksum, so that only the size is wrong."""
    data = patch(data, 16, ">II", width, height)
    return patch(data, 29, ">I", zlib.crc32(data[12:29]))


def tiff_of_size(data: bytes, width: int, height: int) -> bytes:
    """Patch width (tag 256), height (257) and rows per strip (278), as 32-bit values."""
    at = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, at)[0]):
        place = at + 2 + 12 * entry
        tag = struct.unpack_from("<H", data, place)[0]
        if tag in (256, 257, 278):
            data = patch(data, place, "<HHII", tag, 4, 1, width if tag == 256 else height)
    return data


def lossless_of_size(width: int, height: int) -> bytes:
    """Patch the header of a lossless WebP."""
    data = one("lossless.webp")
    return patch(data, data.index(b"VP8L") + 9, "<I", (width - 1) | (height - 1) << 14)


def patch(data: bytes, at: int, form: str, *values: int) -> bytes:
    """Overwrite some bytes with packed numbers."""
    packed = struct.pack(form, *values)
    return data[:at] + packed + data[at + len(packed) :]
