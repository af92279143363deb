"""Decoding compared with Pillow, and the reasons for images that cannot be decoded."""

import contextlib
import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from resnetlab.data.images.decode import BadImageError, decode, decode_crop, decode_eval_view, read_header
from resnetlab.data.images.eval_view import EvalView

RNG = np.random.default_rng(0)
SMOOTH = np.stack([*np.meshgrid(np.linspace(20, 230, 90), np.linspace(0, 255, 60)), np.full((60, 90), 99.0)], -1)
RGB = Image.fromarray((SMOOTH + RNG.integers(-9, 9, SMOOTH.shape)).clip(0, 255).astype(np.uint8))
ALPHA = Image.fromarray(RNG.integers(0, 256, (60, 90), dtype=np.uint8))


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decode_with_pillow(data: bytes) -> np.ndarray:
    """Return the pixels from Pillow, upright and on white."""
    image = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def with_alpha(mode: str) -> Image.Image:
    image = RGB.convert(mode)
    image.putalpha(ALPHA)
    return image


FILES = {
    "jpeg": encode(RGB, "JPEG", quality=90),
    "jpeg 4:4:4": encode(RGB, "JPEG", subsampling=0),
    "jpeg progressive": encode(RGB, "JPEG", progressive=True),
    "jpeg grey": encode(RGB.convert("L"), "JPEG"),
    "jpeg cmyk": encode(RGB.convert("CMYK"), "JPEG"),
    "png": encode(RGB, "PNG"),
    "png grey": encode(RGB.convert("L"), "PNG"),
    "png 1-bit": encode(RGB.convert("1"), "PNG"),
    "png palette": encode(RGB.quantize(16), "PNG"),
    "png palette, one colour transparent": encode(RGB.quantize(16), "PNG", transparency=3),
    "png palette, alpha": encode(RGB.quantize(16), "PNG", transparency=bytes(range(0, 256, 16))),
    "png rgb, one colour transparent": encode(RGB, "PNG", transparency=RGB.getpixel((5, 5))),
    "png grey and alpha": encode(with_alpha("L"), "PNG"),
    "png rgba": encode(with_alpha("RGB"), "PNG"),
    "webp": encode(RGB, "WEBP"),
    "webp rgba": encode(with_alpha("RGB"), "WEBP", lossless=True),
    "gif": encode(RGB, "GIF"),
    "gif transparent": encode(RGB.quantize(16), "GIF", transparency=3),
    "gif animated": encode(RGB, "GIF", save_all=True, append_images=[RGB.rotate(180)]),
    "webp animated": encode(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(180)]),
    "png animated": encode(RGB, "PNG", save_all=True, append_images=[RGB.rotate(180)]),
    "bmp": encode(RGB, "BMP"),
    "tiff": encode(RGB, "TIFF"),
    "tiff lzw": encode(RGB, "TIFF", compression="tiff_lzw"),
    "tiff cmyk": encode(RGB.convert("CMYK"), "TIFF"),
    "ppm": encode(RGB, "PPM"),
    "pgm": encode(RGB.convert("L"), "PPM"),
}


@pytest.mark.parametrize("name", FILES)
def test_decode_matches_pillow(name):
    pixels, header = decode(FILES[name]), read_header(FILES[name])
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, decode_with_pillow(FILES[name]))
    assert (header.height, header.width) == pixels.shape[:2] == (60, 90)
    assert header.format.lower() == {"pgm": "ppm"}.get(name, name.split()[0])
    assert header.mode == Image.open(BytesIO(FILES[name])).mode


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    values = np.array([[0, 128, 129, 257], [30_000, 32_767, 65_406, 65_535]], np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    pixels = decode(encode(Image.fromarray(values), kind))
    np.testing.assert_array_equal(pixels, np.repeat(expected[:, :, None], 3, 2))


def test_32_bit_integers_and_floats_of_a_tiff():
    integers = Image.fromarray(np.array([[-5, 257, 65_535, 1_000_000]], np.int32))
    assert decode(encode(integers, "TIFF"))[0, :, 0].tolist() == [0, 1, 255, 255]
    unit = Image.fromarray(np.array([[-1, 0.5, 1.0, np.nan]], np.float32))
    assert decode(encode(unit, "TIFF"))[0, :, 1].tolist() == [0, 128, 255, 0]
    bytes_ = Image.fromarray(np.array([[0, 1, 127.6, 270]], np.float32))
    assert decode(encode(bytes_, "TIFF"))[0, :, 2].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(RGB, kind, exif=exif)
    expected = decode_with_pillow(data)
    assert expected.shape == ((90, 60, 3) if orientation >= 5 else (60, 90, 3))
    np.testing.assert_array_equal(decode(data), expected)
    header = read_header(data)
    assert (header.height, header.width) == expected.shape[:2]
    small = decode(encode(RGB.resize((900, 600)), kind, exif=exif), min_side=20)
    assert np.abs(small[::10, ::10].astype(int).mean() - expected.mean()) < 8
    assert small.shape[0] < small.shape[1] if orientation < 5 else small.shape[0] > small.shape[1]


def test_exif_of_a_webp_may_have_the_prefix_of_a_jpeg():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(RGB, "WEBP", exif=exif)
    at = data.rindex(b"EXIF")
    payload = b"Exif\0\0" + data[at + 8 :]
    odd = data[8:at] + b"EXIF" + struct.pack("<I", len(payload)) + payload
    np.testing.assert_array_equal(decode(b"RIFF" + struct.pack("<I", len(odd)) + odd), decode(data))
    assert decode(data).shape == (90, 60, 3)


def test_invalid_exif_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 9
    for data in (encode(RGB, "JPEG", exif=exif), encode(RGB, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")):
        assert decode(data).shape == (60, 90, 3)


def test_warnings_and_pixel_limit_of_pillow_do_not_apply(monkeypatch):
    odd = encode(RGB, "TIFF", tiffinfo={306: "2015:12:10 00:00:00"})
    odd = odd.replace(struct.pack("<HHI", 306, 2, 20), struct.pack("<HHI", 306, 2, 9_999_999))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="Tag data larger than file"):
            Image.open(BytesIO(odd))
        assert decode(odd).shape == (60, 90, 3)
        warnings.simplefilter("error")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # 5,400 pixels: a warning
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(BytesIO(FILES["png"]))
        for data in FILES.values():
            assert decode(data).shape == (60, 90, 3)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # more than twice the limit: an error
        for name in ("jpeg", "jpeg cmyk", "png", "gif", "bmp", "ppm"):
            assert decode(FILES[name]).shape == (60, 90, 3)


def png_claiming(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(b"")
    parts = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, pixels))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bmp_claiming(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("data", [png_claiming(60_000, 60_000), bmp_claiming(60_000, 60_000)], ids=["png", "bmp"])
@pytest.mark.parametrize("function", [read_header, decode], ids=lambda f: f.__name__)
def test_a_huge_claim_is_refused_before_memory_is_allocated(data, function):
    with pytest.raises(BadImageError, match=r"^claims 60,000 x 60,000 pixels, more than 100 megapixels$"):
        function(data)


def test_max_pixels_limits_the_size():
    for name in ("jpeg", "png", "webp", "jpeg cmyk"):
        with pytest.raises(BadImageError, match=r"claims 90 x 60 pixels, more than 0\.005 megapixels"):
            decode(FILES[name], max_pixels=5000)
        assert decode(FILES[name], max_pixels=5400).shape == (60, 90, 3)
        with pytest.raises(BadImageError):
            decode(FILES[name], max_pixels=5399)


@pytest.mark.parametrize("name", ["jpeg", "jpeg cmyk", "png", "webp", "gif", "bmp", "tiff", "tiff lzw", "ppm"])
@pytest.mark.parametrize("fraction", [0.03, 0.5, 0.9])
def test_truncated_images_are_refused(name, fraction):
    data = FILES[name][: int(len(FILES[name]) * fraction)]
    with pytest.raises(BadImageError, match=r"^(truncated after [\d,]+ bytes|damaged \w+ \([^\n]+\))$") as error:
        decode(data)
    if fraction == 0.9 and name in ("jpeg", "png"):
        assert str(error.value) == f"truncated after {len(data):,} bytes"


@pytest.mark.parametrize("data", [b"\xfe\x03 unknown", b"\xff\xd8", b"RIFFx\0\0\0"[:6] + b"\x90"])
def test_other_files_are_refused_with_the_supported_formats(data):
    for function in (read_header, decode):
        with pytest.raises(
            BadImageError, match=r"^not an image that can be read \(JPEG, PNG, WebP, GIF, BMP, TIFF, PPM"
        ):
            function(data)
    with pytest.raises(BadImageError, match=r"^is empty$"):
        decode(b"")


def test_damage_of_any_byte_raises_only_bad_image_error():
    for name in ("jpeg", "png palette, alpha", "webp", "gif", "tiff lzw", "bmp", "pgm"):
        for at in RNG.integers(0, 200, 12):
            damaged = bytearray(FILES[name])
            damaged[at] ^= 0xFF
            for function in (read_header, decode):
                with contextlib.suppress(BadImageError):
                    function(bytes(damaged), max_pixels=1_000_000)


def test_read_header_needs_only_the_beginning_of_a_jpeg():
    data = encode(RGB.resize((2000, 1500)), "JPEG")
    assert read_header(data[:2000]) == read_header(data)


def test_jpegs_that_only_a_strict_decoder_rejects_are_decoded():
    data = FILES["jpeg"]
    at = data.index(b"\xff\xdb")
    odd = data[:at] + b"\0\0\0" + data[at:]  # nothing may stand between two segments
    with pytest.raises(ValueError, match="3 extraneous bytes"):
        simplejpeg.decode_jpeg(odd)
    for same in (odd, data + b"trailing"):
        np.testing.assert_array_equal(decode(same), decode(data))


def test_a_reduced_jpeg_keeps_the_minimum_side():
    data = encode(RGB.resize((800, 600), Image.Resampling.BILINEAR), "JPEG")
    assert decode(data, min_side=300).shape == (300, 400, 3)
    assert decode(data, min_side=301).shape == (600, 800, 3)
    assert decode(data, min_side=1).shape == (75, 100, 3)
    assert np.abs(decode(data, min_side=75).mean((0, 1)) - decode(data).mean((0, 1))).max() < 0.5


def eval_view_with_pillow(image: Image.Image, size: int, crop_ratio: float) -> np.ndarray:
    shorter = round(size / crop_ratio)
    scale = shorter / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize(("size", "crop_ratio"), [(32, 1.0), (32, 0.875), (60, 0.9), (100, 1.0)])
def test_eval_view_matches_pillow(size, crop_ratio):
    for image in (RGB, RGB.rotate(90, expand=True)):
        pixels = decode_eval_view(encode(image, "PNG"), EvalView(size, size, crop_ratio))
        assert pixels.shape == (size, size, 3)
        assert np.abs(pixels.astype(int) - eval_view_with_pillow(image, size, crop_ratio)).max() <= 1


def test_eval_view_of_a_reduced_jpeg_matches_pillow():
    large = RGB.resize((1600, 1200), Image.Resampling.BICUBIC)
    data = encode(large, "JPEG", quality=95)
    difference = decode_eval_view(data, EvalView(64, 64, 0.875)).astype(int) - eval_view_with_pillow(
        Image.open(BytesIO(data)), 64, 0.875
    )
    assert np.abs(difference).mean() < 1


def test_eval_view_of_an_image_of_the_same_size_is_the_image():
    square = RGB.crop((0, 0, 60, 60))
    np.testing.assert_array_equal(decode_eval_view(encode(square, "PNG"), EvalView(60, 60)), np.asarray(square))


def test_eval_view_of_a_very_long_image_needs_little_memory(monkeypatch):
    calls = []

    def record_resize(pixels, height, width, interpolation):
        calls.append((height, width))
        return np.broadcast_to(pixels[:1, :1], (height, width, 3))

    monkeypatch.setattr("resnetlab.data.images.resample.resize", record_resize)
    data = encode(Image.new("RGB", (60_000, 1), "red"), "PNG")
    assert decode_eval_view(data, EvalView(32, 32)).tolist() == [[[255, 0, 0]] * 32] * 32
    assert calls == [(32, 128)]


def test_decode_crop_is_the_resized_box():
    cut = RGB.crop((18, 6, 72, 36)).resize((24, 24), Image.Resampling.BILINEAR)
    pixels = decode_crop(encode(RGB, "PNG"), (0.1, 0.2, 0.5, 0.6), 24)
    assert np.abs(pixels.astype(int) - np.asarray(cut)).max() <= 1


@pytest.mark.parametrize("orientation", [1, 6])
def test_decode_crop_preserves_the_details_of_the_box(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = Image.fromarray(RNG.integers(0, 256, (80, 320), dtype=np.uint8))
    upright = noise.resize((1280, 320), Image.Resampling.NEAREST)
    stored = upright if orientation == 1 else upright.rotate(90, expand=True)
    data = encode(stored, "JPEG", quality=95, exif=exif)
    for top, left, height, width in ((0.0, 0.25, 1.0, 0.25), (0.5, 0.0, 0.25, 1.0), (0.25, 0.5, 0.5, 0.25)):
        edges = (1280 * left, 320 * top, 1280 * (left + width), 320 * (top + height))
        expected = upright.resize((80, 80), Image.Resampling.BILINEAR, box=edges)
        pixels = decode_crop(data, (top, left, height, width), 80)[:, :, 0].astype(int)
        assert np.abs(pixels - np.asarray(expected)).mean() < 4


def test_the_smallest_box_is_one_pixel():
    pixels = decode_crop(encode(RGB, "PNG"), (1.0, 1.0, 0.0, 0.0), 4)
    assert (pixels == np.asarray(RGB)[-1, -1]).all()
