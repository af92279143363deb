"""Damage that only libtiff knows of is an error of ours, in the thread that met it, and no line of anybody else's."""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from resnetlab.data.images import libtiff
from resnetlab.data.images.decode import BadImageError, decode

DISTANCE = np.hypot(*np.meshgrid(np.arange(-45, 45), np.arange(-30, 30)))
RINGS = (DISTANCE.astype(int)[..., None] * (5, 7, 11)).astype(np.uint8)
REASON = r"^damaged TIFF \(libtiff: [A-Z][^%\n]+\)$"


def saved(mode: str, compression: str | None) -> bytes:
    file = BytesIO()
    Image.fromarray(RINGS).convert(mode).save(file, "TIFF", compression=compression)
    return file.getvalue()


def damaged(data: bytes) -> bytes:
    """Invert a fifth of a file, in its middle, where its pixels are."""
    middle = slice(len(data) * 2 // 5, len(data) * 3 // 5)
    return data[: middle.start] + bytes(255 - byte for byte in data[middle]) + data[middle.stop :]


WHOLE = saved("1", "group4")
DAMAGED = damaged(WHOLE)


@pytest.mark.parametrize("compression", ["group3", "group4"])
def test_a_damaged_fax_is_no_image(compression, capfd):
    with pytest.raises(BadImageError, match=REASON):
        decode(damaged(saved("1", compression)))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "zstd", "lzma", "jpeg"])
def test_libtiffs_own_lines_stay_off_standard_error(compression, capfd):
    with pytest.raises(BadImageError, match=r"^damaged TIFF \("):
        decode(damaged(saved("RGB", compression)))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("mode", "compression"),
    [
        *(("RGB", name) for name in (None, "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "jpeg")),
        *(("RGB", name) for name in ("zstd", "lzma")),
        *(("1", name) for name in ("group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw")),
        *(("L", "jpeg"), ("P", "tiff_lzw"), ("CMYK", "tiff_lzw"), ("RGBA", "tiff_lzw")),
    ],
)
def test_whole_ones_are_as_pillow_shows_them(mode, compression, capfd):
    data = saved(mode, compression)
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(BytesIO(data)).convert("RGB")))
    assert capfd.readouterr().err == ""


def test_a_whole_one_after_a_damaged_one_is_whole():
    for data in (DAMAGED, WHOLE, DAMAGED, WHOLE):
        if data is WHOLE:
            assert decode(data).shape == (60, 90, 3)
        else:
            with pytest.raises(BadImageError):
                decode(data)


def test_threads_hear_of_their_own_image_only(capfd):
    def is_whole(data: bytes) -> bool:
        try:
            return decode(data).shape == (60, 90, 3)
        except BadImageError:
            return False

    images = [DAMAGED if number % 3 else WHOLE for number in range(300)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(is_whole, images)) == [data is WHOLE for data in images]
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_hears_as_well(capfd):
    with libtiff.capture_errors():
        pass
    child = os.fork()
    if child == 0:
        try:
            decode(DAMAGED)
            os._exit(1)
        except BadImageError:
            os._exit(0)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert capfd.readouterr().err == ""


def test_where_libtiff_cannot_be_told_all_is_as_it_was(monkeypatch):
    for file in ("/nowhere/_imaging.so", math.__file__):  # no such library; and one without the function
        monkeypatch.setattr(Image.core, "__file__", file)
        assert libtiff._find() is None
    monkeypatch.setattr(libtiff, "_set_error_handler", None)
    assert decode(WHOLE).shape == (60, 90, 3)


def test_what_libtiff_says_while_nobody_decodes_is_not_kept():
    libtiff._note(b"earlier", b"Out of memory")
    with libtiff.capture_errors() as said:
        libtiff._note(None, b"No space for %s.")
        libtiff._note(b"later", b"Out of memory")
    libtiff._note(b"later", b"Out of memory")
    assert said == ["No space for …"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Bad code word at line %u of %s %u (x %u)", "Bad code word at line …"),
        ("%s: Bad code word at line %lu", "Bad code word at line …"),
        ("Read error at scanline %lu; got %-5.3lld bytes", "Read error at scanline …"),
        ("Out of memory", "Out of memory"),
        ("%s", "an error in Codec"),
        ("", "an error in Codec"),
    ],
)
def test_a_message_without_its_values(message, words):
    assert libtiff.readable_message("Codec", message) == words
