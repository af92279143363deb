"""Damage that only libtiff detects raises `BadImageError` in the decoding thread and prints nothing."""

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


def encode(mode: str, compression: str | None) -> bytes:
    file = BytesIO()
    Image.fromarray(RINGS).convert(mode).save(file, "TIFF", compression=compression)
    return file.getvalue()


def damage(data: bytes) -> bytes:
    """Invert the middle fifth of a file, which contains pixels."""
    middle = slice(len(data) * 2 // 5, len(data) * 3 // 5)
    return data[: middle.start] + bytes(255 - byte for byte in data[middle]) + data[middle.stop :]


UNDAMAGED = encode("1", "group4")
DAMAGED = damage(UNDAMAGED)


@pytest.mark.parametrize("compression", ["group3", "group4"])
def test_a_damaged_fax_is_refused(compression, capfd):
    with pytest.raises(BadImageError, match=REASON):
        decode(damage(encode("1", compression)))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "zstd", "lzma", "jpeg"])
def test_libtiff_prints_nothing_to_standard_error(compression, capfd):
    with pytest.raises(BadImageError, match=r"^damaged TIFF \("):
        decode(damage(encode("RGB", compression)))
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
def test_undamaged_tiffs_match_pillow(mode, compression, capfd):
    data = encode(mode, compression)
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(BytesIO(data)).convert("RGB")))
    assert capfd.readouterr().err == ""


def test_an_undamaged_tiff_after_a_damaged_one_is_decoded():
    for data in (DAMAGED, UNDAMAGED, DAMAGED, UNDAMAGED):
        if data is UNDAMAGED:
            assert decode(data).shape == (60, 90, 3)
        else:
            with pytest.raises(BadImageError):
                decode(data)


def test_threads_get_errors_of_their_own_image_only(capfd):
    def is_decoded(data: bytes) -> bool:
        try:
            return decode(data).shape == (60, 90, 3)
        except BadImageError:
            return False

    images = [DAMAGED if number % 3 else UNDAMAGED for number in range(300)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(is_decoded, images)) == [data is UNDAMAGED for data in images]
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_captures_errors(capfd):
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


def test_without_access_to_the_handler_decoding_works(monkeypatch):
    for file in ("/nowhere/_imaging.so", math.__file__):  # no such library, and a library without the function
        monkeypatch.setattr(Image.core, "__file__", file)
        assert libtiff._find_handler_setter() is None
    monkeypatch.setattr(libtiff, "_set_error_handler", None)
    assert decode(UNDAMAGED).shape == (60, 90, 3)


def test_errors_outside_a_capture_are_not_recorded():
    libtiff._record(b"earlier", b"Out of memory")
    with libtiff.capture_errors() as messages:
        libtiff._record(None, b"No space for %s.")
        libtiff._record(b"later", b"Out of memory")
    libtiff._record(b"later", b"Out of memory")
    assert messages == ["No space for …"]


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
def test_readable_message_leaves_values_out(message, words):
    assert libtiff.readable_message("Codec", message) == words
