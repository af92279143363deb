"""What a viewer shows, compared with Pillow; and what no viewer can show, with its reason."""

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

RNG = np.random.default_rng(0)
SMOOTH = np.stack([*np.meshgrid(np.linspace(20, 230, 90), np.linspace(0, 255, 60)), np.full((60, 90), 99.0)], -1)
RGB = Image.fromarray((SMOOTH + RNG.integers(-9, 9, SMOOTH.shape)).clip(0, 255).astype(np.uint8))
ALPHA = Image.fromarray(RNG.integers(0, 256, (60, 90), dtype=np.uint8))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def shown(data: bytes) -> np.ndarray:
    """What Pillow shows, upright and on white."""
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
    "jpeg": saved(RGB, "JPEG", quality=90),
    "jpeg 4:4:4": saved(RGB, "JPEG", subsampling=0),
    "jpeg progressive": saved(RGB, "JPEG", progressive=True),
    "jpeg grey": saved(RGB.convert("L"), "JPEG"),
    "jpeg cmyk": saved(RGB.convert("CMYK"), "JPEG"),
    "png": saved(RGB, "PNG"),
    "png grey": saved(RGB.convert("L"), "PNG"),
    "png 1-bit": saved(RGB.convert("1"), "PNG"),
    "png palette": saved(RGB.quantize(16), "PNG"),
    "png palette, one colour transparent": saved(RGB.quantize(16), "PNG", transparency=3),
    "png palette, alpha": saved(RGB.quantize(16), "PNG", transparency=bytes(range(0, 256, 16))),
    "png rgb, one colour transparent": saved(RGB, "PNG", transparency=RGB.getpixel((5, 5))),
    "png grey and alpha": saved(with_alpha("L"), "PNG"),
    "png rgba": saved(with_alpha("RGB"), "PNG"),
    "webp": saved(RGB, "WEBP"),
    "webp rgba": saved(with_alpha("RGB"), "WEBP", lossless=True),
    "gif": saved(RGB, "GIF"),
    "gif transparent": saved(RGB.quantize(16), "GIF", transparency=3),
    "gif animated": saved(RGB, "GIF", save_all=True, append_images=[RGB.rotate(180)]),
    "webp animated": saved(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(180)]),
    "png animated": saved(RGB, "PNG", save_all=True, append_images=[RGB.rotate(180)]),
    "bmp": saved(RGB, "BMP"),
    "tiff": saved(RGB, "TIFF"),
    "tiff lzw": saved(RGB, "TIFF", compression="tiff_lzw"),
    "tiff cmyk": saved(RGB.convert("CMYK"), "TIFF"),
    "ppm": saved(RGB, "PPM"),
    "pgm": saved(RGB.convert("L"), "PPM"),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_that_pillow_shows(name):
    pixels, header = decode(FILES[name]), read_header(FILES[name])
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, shown(FILES[name]))
    assert (header.height, header.width) == pixels.shape[:2] == (60, 90)
    assert header.format.lower() == {"pgm": "ppm"}.get(name, name.split()[0])
    assert header.mode == Image.open(BytesIO(FILES[name])).mode


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    values = np.array([[0, 128, 129, 257], [30_000, 32_767, 65_406, 65_535]], np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    pixels = decode(saved(Image.fromarray(values), kind))
    np.testing.assert_array_equal(pixels, np.repeat(expected[:, :, None], 3, 2))


def test_integers_and_floats_of_a_tiff():
    integers = Image.fromarray(np.array([[-5, 257, 65_535, 1_000_000]], np.int32))
    assert decode(saved(integers, "TIFF"))[0, :, 0].tolist() == [0, 1, 255, 255]
    unit = Image.fromarray(np.array([[-1, 0.5, 1.0, np.nan]], np.float32))
    assert decode(saved(unit, "TIFF"))[0, :, 1].tolist() == [0, 128, 255, 0]
    bytes_ = Image.fromarray(np.array([[0, 1, 127.6, 300]], np.float32))
    assert decode(saved(bytes_, "TIFF"))[0, :, 2].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(RGB, kind, exif=exif)
    expected = shown(data)
    assert expected.shape == ((90, 60, 3) if orientation >= 5 else (60, 90, 3))
    np.testing.assert_array_equal(decode(data), expected)
    header = read_header(data)
    assert (header.height, header.width) == expected.shape[:2]
    small = decode(saved(RGB.resize((900, 600)), kind, exif=exif), min_side=20)
    assert np.abs(small[::10, ::10].astype(int).mean() - expected.mean()) < 8
    assert small.shape[0] < small.shape[1] if orientation < 5 else small.shape[0] > small.shape[1]


def test_exif_of_a_webp_may_begin_as_that_of_a_jpeg():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(RGB, "WEBP", exif=exif)
    at = data.rindex(b"EXIF")
    payload = b"Exif\0\0" + data[at + 8 :]
    odd = data[8:at] + b"EXIF" + struct.pack("<I", len(payload)) + payload
    np.testing.assert_array_equal(decode(b"RIFF" + struct.pack("<I", len(odd)) + odd), decode(data))
    assert decode(data).shape == (90, 60, 3)


def test_nonsense_in_exif_is_no_reason_to_refuse():
    exif = Image.Exif()
    exif[0x0112] = 9
    for data in (saved(RGB, "JPEG", exif=exif), saved(RGB, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")):
        assert decode(data).shape == (60, 90, 3)


def test_pillows_warnings_and_its_limit_stay_out(monkeypatch):
    odd = saved(RGB, "TIFF", tiffinfo={306: "2015:12:10 00:00:00"})
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
@pytest.mark.parametrize("look", [read_header, decode], ids=lambda f: f.__name__)
def test_a_huge_claim_is_refused_before_memory_is_taken(data, look):
    with pytest.raises(BadImageError, match=r"^claims 60,000 x 60,000 pixels, more than 100 megapixels$"):
        look(data)


def test_the_limit_is_ours_to_choose():
    for name in ("jpeg", "png", "webp", "jpeg cmyk"):
        with pytest.raises(BadImageError, match=r"claims 90 x 60 pixels, more than 0\.005 megapixels"):
            decode(FILES[name], max_pixels=5000)
        assert decode(FILES[name], max_pixels=5400).shape == (60, 90, 3)
        with pytest.raises(BadImageError):
            decode(FILES[name], max_pixels=5399)


@pytest.mark.parametrize("name", ["jpeg", "jpeg cmyk", "png", "webp", "gif", "bmp", "tiff", "tiff lzw", "ppm"])
@pytest.mark.parametrize("kept", [0.03, 0.5, 0.9])
def test_what_is_truncated_is_no_image(name, kept):
    data = FILES[name][: int(len(FILES[name]) * kept)]
    with pytest.raises(BadImageError, match=r"^(truncated after [\d,]+ bytes|damaged \w+ \([^\n]+\))$") as caught:
        decode(data)
    if kept == 0.9 and name in ("jpeg", "png"):
        assert str(caught.value) == f"truncated after {len(data):,} bytes"


@pytest.mark.parametrize("data", [b"just some text\n", b"<svg></svg>", b"\0" * 100, b"%PDF-1.7"])
def test_what_is_no_image_is_said_so(data):
    for look in (read_header, decode):
        with pytest.raises(
            BadImageError, match=r"^not an image that can be read \(JPEG, PNG, WebP, GIF, BMP, TIFF, PPM"
        ):
            look(data)
    with pytest.raises(BadImageError, match=r"^is empty$"):
        decode(b"")


def test_every_byte_may_be_damaged_and_nothing_but_our_error_comes():
    for name in ("jpeg", "png palette, alpha", "webp", "gif", "tiff lzw", "bmp", "pgm"):
        for at in RNG.integers(0, 200, 12):
            damaged = bytearray(FILES[name])
            damaged[at] ^= 0xFF
            for look in (read_header, decode):
                with contextlib.suppress(BadImageError):
                    look(bytes(damaged), max_pixels=1_000_000)


def test_a_header_needs_no_more_than_the_beginning_of_a_jpeg():
    data = saved(RGB.resize((2000, 1500)), "JPEG")
    assert read_header(data[:2000]) == read_header(data)


def test_oddities_that_viewers_overlook_are_overlooked():
    data = FILES["jpeg"]
    at = data.index(b"\xff\xdb")
    odd = data[:at] + b"\0\0\0" + data[at:]  # nothing may stand between two segments
    with pytest.raises(ValueError, match="3 extraneous bytes"):
        simplejpeg.decode_jpeg(odd)
    for same in (odd, data + b"trailing"):
        np.testing.assert_array_equal(decode(same), decode(data))


def test_a_smaller_jpeg_keeps_the_side_that_is_needed():
    data = saved(RGB.resize((800, 600), Image.Resampling.BILINEAR), "JPEG")
    assert decode(data, min_side=300).shape == (300, 400, 3)
    assert decode(data, min_side=301).shape == (600, 800, 3)
    assert decode(data, min_side=1).shape == (75, 100, 3)
    assert np.abs(decode(data, min_side=75).mean((0, 1)) - decode(data).mean((0, 1))).max() < 0.5


def pillow_view(image: Image.Image, size: int, crop_ratio: float) -> np.ndarray:
    shorter = round(size / crop_ratio)
    scale = shorter / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize(("size", "crop_ratio"), [(32, 1.0), (32, 0.875), (60, 0.9), (100, 1.0)])
def test_the_view_is_pillows(size, crop_ratio):
    for image in (RGB, RGB.rotate(90, expand=True)):
        pixels = decode_eval_view(saved(image, "PNG"), size, crop_ratio)
        assert pixels.shape == (size, size, 3)
        assert np.abs(pixels.astype(int) - pillow_view(image, size, crop_ratio)).max() <= 1


def test_a_scaled_view_looks_the_same():
    large = RGB.resize((1600, 1200), Image.Resampling.BICUBIC)
    data = saved(large, "JPEG", quality=95)
    difference = decode_eval_view(data, 64, 0.875).astype(int) - pillow_view(Image.open(BytesIO(data)), 64, 0.875)
    assert np.abs(difference).mean() < 1


def test_the_view_of_an_image_of_that_size_is_the_image():
    square = RGB.crop((0, 0, 60, 60))
    np.testing.assert_array_equal(decode_eval_view(saved(square, "PNG"), 60), np.asarray(square))


def test_the_view_of_a_very_long_image_takes_little_memory(monkeypatch):
    asked = []

    def resized(pixels, height, width):
        asked.append((height, width))
        return np.broadcast_to(pixels[:1, :1], (height, width, 3))

    monkeypatch.setattr("resnetlab.data.images.decode.resize", resized)
    assert (
        decode_eval_view(saved(Image.new("RGB", (60_000, 1), "red"), "PNG"), 32).tolist() == [[[255, 0, 0]] * 32] * 32
    )
    assert asked == [(32, 128)]


def test_a_crop_is_the_box_resized():
    cut = RGB.crop((18, 6, 72, 36)).resize((24, 24), Image.Resampling.BILINEAR)
    pixels = decode_crop(saved(RGB, "PNG"), (0.1, 0.2, 0.5, 0.6), 24)
    assert np.abs(pixels.astype(int) - np.asarray(cut)).max() <= 1


@pytest.mark.parametrize("orientation", [1, 6])
def test_no_detail_that_a_crop_can_show_is_lost(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = Image.fromarray(RNG.integers(0, 256, (80, 320), dtype=np.uint8))
    upright = noise.resize((1280, 320), Image.Resampling.NEAREST)
    stored = upright if orientation == 1 else upright.rotate(90, expand=True)
    data = saved(stored, "JPEG", quality=95, exif=exif)
    for top, left, height, width in ((0.0, 0.25, 1.0, 0.25), (0.5, 0.0, 0.25, 1.0), (0.25, 0.5, 0.5, 0.25)):
        edges = (1280 * left, 320 * top, 1280 * (left + width), 320 * (top + height))
        expected = upright.resize((80, 80), Image.Resampling.BILINEAR, box=edges)
        pixels = decode_crop(data, (top, left, height, width), 80)[:, :, 0].astype(int)
        assert np.abs(pixels - np.asarray(expected)).mean() < 4


def test_the_smallest_box_is_a_pixel():
    pixels = decode_crop(saved(RGB, "PNG"), (1.0, 1.0, 0.0, 0.0), 4)
    assert (pixels == np.asarray(RGB)[-1, -1]).all()
