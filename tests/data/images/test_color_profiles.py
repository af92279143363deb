"""Embedded colour profiles against an independent computation from published primaries and gammas."""

import logging
import sys
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.tiff_files import write_tiff
from resnetlab.data.images import color_profiles
from resnetlab.data.images.color_profiles import profile_conversion, profile_name
from resnetlab.data.images.decode import decode, decode_crop, decode_eval_view, embedded_profile
from resnetlab.data.images.eval_view import EvalView

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from icc_profiles import PRIMARIES, cmyk_profile, convert, encoded, grey_profile, linear, rgb_profile

SPACES = [name for name in PRIMARIES if name != "sRGB"]
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}}


def colours() -> np.ndarray:
    """Return sRGB colours inside all spaces, uint8 (32, 32, 3), smooth so that JPEG keeps them."""
    rows, columns = np.mgrid[40:220:32j, 40:220:32j]
    return np.rint(np.stack([rows, columns, (rows + columns) / 2], axis=2)).astype(np.uint8)


def save(pixels: np.ndarray, kind: str, profile: bytes | None, mode: str | None = None, **options: Any) -> bytes:
    file = BytesIO()
    image = Image.fromarray(pixels)
    image = image if mode is None else image.convert(mode)
    image.save(file, kind, icc_profile=profile, **(LOSSLESS.get(kind, {}) | options))
    return file.getvalue()


@pytest.mark.parametrize("version", [2, 4])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", [*LOSSLESS, "JPEG"])
def test_colours_are_those_of_a_viewer(kind, space, version):
    shown = colours()
    stored = convert(shown, "sRGB", space)
    assert np.abs(stored.astype(int) - shown).max() > 10
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = save(stored, kind, rgb_profile(space, version=version), **options)
    assert np.abs(decode(data).astype(int) - shown).mean() < 1
    exact = convert(stored, space, "sRGB").astype(int)  # what 8 bits can still show
    assert np.abs(decode(data).astype(int) - exact).max() <= (16 if kind == "JPEG" else 1)
    raw = decode(data, color_profiles="ignore")
    assert np.abs(raw.astype(int) - stored).max() <= (6 if kind == "JPEG" else 0)
    assert profile_name(embedded_profile(data), "RGB") == space


def test_views_and_crops_apply_profiles_too():
    shown = colours()
    data = save(convert(shown, "sRGB", "ProPhoto RGB"), "PNG", rgb_profile("ProPhoto RGB"))
    for pixels in (decode_eval_view(data, EvalView(32, 32)), decode_crop(data, (0, 0, 1, 1), 32)):
        assert np.array_equal(pixels, decode(data))
    for function in (
        lambda: decode_eval_view(data, EvalView(32, 32, color_profiles="ignore")),
        lambda: decode_crop(data, (0, 0, 1, 1), 32, color_profiles="ignore"),
    ):
        assert np.array_equal(function(), decode(data, color_profiles="ignore"))


@pytest.mark.parametrize("version", [2, 4])
@pytest.mark.parametrize("kind", [*LOSSLESS, "JPEG"])
def test_profiles_of_srgb_change_no_bit(kind, version):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    plain, profiled = save(pixels, kind, None), save(pixels, kind, rgb_profile("sRGB", version=version))
    assert len(profiled) > len(plain)
    assert np.array_equal(decode(plain), decode(profiled))
    assert profile_name(embedded_profile(profiled), "RGB") == "sRGB"
    assert embedded_profile(plain) is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
def test_grey_profiles(kind, gamma):
    ramp = np.arange(0, 256, 4, dtype=np.uint8)[None].repeat(64, 0)
    options: dict[str, Any] = {"quality": 100} if kind == "JPEG" else {}
    got = decode(save(ramp, kind, grey_profile(gamma), **options)).astype(int)
    want = encoded(linear(ramp / 255, gamma), "sRGB") * 255
    # Linear light is steep near black, where Little CMS interpolates and JPEG errs by one.
    assert np.abs(got[:, :, 0] - want).max() <= (13 if gamma == 1 else 3)
    assert np.array_equal(got[:, :, 0], got[:, :, 1])
    assert np.array_equal(got[:, :, 0], got[:, :, 2])


def test_grey_of_sixteen_bits_and_with_an_rgb_profile():
    ramp = (np.arange(256, dtype=np.uint16) * 257)[None].repeat(8, 0)
    want = encoded(linear(np.arange(256) / 255, 1.8), "sRGB") * 255
    assert np.abs(decode(save(ramp, "PNG", grey_profile(1.8)))[0, :, 1] - want).max() <= 2
    grey = np.arange(256, dtype=np.uint8)[None].repeat(8, 0)
    assert (
        np.abs(decode(save(grey, "JPEG", rgb_profile("ProPhoto RGB"), quality=100))[0, 16:, 1] - want[16:]).max() <= 3
    )


def test_transparent_images_are_converted_before_they_are_put_on_white():
    shown = colours()
    alpha = np.full((32, 32, 1), 128, np.uint8)
    stored = np.concatenate([convert(shown, "sRGB", "ProPhoto RGB"), alpha], axis=2)
    got = decode(save(stored, "PNG", rgb_profile("ProPhoto RGB")))
    assert np.abs(got - (shown * (128 / 255) + 127)).max() <= 4


def test_palettes_are_converted():
    shown = np.array([[[200, 30, 60], [20, 180, 90]]], np.uint8).repeat(8, 0).repeat(8, 1)
    stored = Image.fromarray(convert(shown, "sRGB", "Adobe RGB (1998)")).quantize(4)
    file = BytesIO()
    stored.save(file, "PNG", icc_profile=rgb_profile("Adobe RGB (1998)"))
    assert np.abs(decode(file.getvalue()).astype(int) - shown).max() <= 6


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_profiles(kind):
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:, 4:8, 0] = inks[:, 8:12, 1] = inks[:, 12:, 3] = 255
    image, file = Image.fromarray(inks, "CMYK"), BytesIO()
    image.save(file, kind, icc_profile=cmyk_profile(), **({"quality": 100} if kind == "JPEG" else {}))
    got = decode(file.getvalue())[8, [1, 6, 10, 14]].astype(int)
    tenth = round(float(encoded(np.array(0.1), "sRGB")) * 255)  # an ink leaves a tenth of its light
    want = np.array([[255, 255, 255], [tenth, 255, 255], [255, tenth, 255], [0, 0, 0]])
    assert np.abs(got - want).max() <= 8
    naive = decode(file.getvalue(), color_profiles="ignore")[8, 6].astype(int)
    assert naive[0] <= 4


def tiff_with_profile(pixels: np.ndarray, profile: bytes) -> bytes:
    return write_tiff(pixels, tags=[(34675, 7, list(profile))])


def test_sixteen_bit_tiff_with_a_profile():
    shown = colours()
    stored = convert(shown, "sRGB", "Display P3").astype(np.uint16) * 257
    for planar in (False, True):
        data = write_tiff(stored, tags=[(34675, 7, list(rgb_profile("Display P3")))], planar=planar)
        assert np.abs(decode(data).astype(int) - shown).max() <= 3


BROKEN = {
    "junk": b"no profile at all" * 9,
    "cut": rgb_profile("Adobe RGB (1998)")[:200],
    "for CMYK": cmyk_profile(),
    "for grey": grey_profile(2.2),
    "an unknown space": rgb_profile("Adobe RGB (1998)").replace(b"RGB XYZ", b"XXX XYZ"),
    "without curves": rgb_profile("Adobe RGB (1998)").replace(b"TRC", b"XXX"),
    "black": rgb_profile("Adobe RGB (1998)").replace(
        b"curv" + bytes(4) + b"\0\0\0\1\2\x33", b"curv" + bytes(4) + b"\0\0\0\1\xff\xff"
    ),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_profiles_that_cannot_be_used_are_ignored_and_logged_once(kind, name, caplog):
    color_profiles._log_once.cache_clear()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    data = save(pixels, kind, BROKEN[name])
    with caplog.at_level(logging.WARNING, "resnetlab"):
        for _ in range(3):
            assert np.array_equal(decode(data), decode(save(pixels, kind, None)))
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()
    assert profile_name(BROKEN[name], "RGB") == "unusable"


def test_damage_of_any_byte_of_a_profile_never_fails():
    profile = rgb_profile("Adobe RGB (1998)")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for at in range(0, len(profile), 3):
        damaged = bytearray(profile)
        damaged[at] ^= int(rng.integers(1, 256))
        convert_pixels = profile_conversion(bytes(damaged), "RGB")
        assert convert_pixels is None or convert_pixels(pixels).shape == pixels.shape


def test_a_profile_in_several_segments_of_a_jpeg():
    padded = rgb_profile("ProPhoto RGB") + bytes(150_000)  # padding after the tags is allowed
    padded = len(padded).to_bytes(4) + padded[4:]
    shown = colours()
    data = save(convert(shown, "sRGB", "ProPhoto RGB"), "JPEG", padded, quality=100, subsampling=0)
    assert data.count(b"ICC_PROFILE\0") == 3
    assert embedded_profile(data) == padded
    assert np.abs(decode(data).astype(int) - shown).mean() < 1.2


def test_threads_share_a_conversion():
    from concurrent.futures import ThreadPoolExecutor

    files = [save(convert(colours(), "sRGB", space), "PNG", rgb_profile(space)) for space in SPACES for _ in range(20)]
    expected = [decode(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        assert all(map(np.array_equal, pool.map(decode, files), expected))
