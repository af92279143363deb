"""Scans: order of results, bad images, progress and errors."""

import threading
import time

import pytest

from helpers.images import encode, random_images
from resnetlab.config import ConfigError
from resnetlab.data.images.decode import BadImageError, Header
from resnetlab.data.images.scan import CHUNK, BadDataError, scan_headers, scan_images


def fail_on_some(position, data):
    if position % 50 == 7:
        raise BadImageError(f"wrong {data.decode()}")
    return position, data


def test_results_are_in_order_and_bad_images_named():
    count = 3 * CHUNK + 5
    storage = [str(position).encode() for position in range(count)]
    names = [f"row {position}" for position in range(count)]
    results, bad = scan_images(names, storage, fail_on_some, workers=3)
    expected = [None if at % 50 == 7 else (at, str(at).encode()) for at in range(count)]
    assert results == expected
    assert bad == [f"row {at}: wrong {at}" for at in (7, 57, 107, 157)]


def test_progress_is_reported_from_this_thread():
    reported = []
    scan_images(
        ["a"] * 100,
        [b""] * 100,
        lambda position, data: None,
        on_progress=lambda *progress: reported.append((*progress, threading.get_ident())),
    )
    assert reported == [(CHUNK, 100, threading.get_ident()), (100, 100, threading.get_ident())]


def test_a_missing_file_is_a_bad_image(tmp_path):
    (tmp_path / "there").write_bytes(b"x")
    results, bad = scan_images(["there", "gone"], [tmp_path / "there", tmp_path / "gone"], lambda position, data: data)
    assert results == [b"x", None]
    assert bad == ["gone: cannot be read (No such file or directory)"]


def test_other_errors_are_raised_and_cancel_the_rest():
    positions = []

    def fail(position, data):
        positions.append(position)
        time.sleep(0.002)  # otherwise the thread might finish before the first error is seen
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        scan_images(["a"] * 10_000, [b""] * 10_000, fail, workers=1)
    assert len(positions) < 10_000 / CHUNK


def test_a_scan_of_no_images():
    assert scan_images([], [], fail_on_some) == ([], [])


def test_workers_must_be_at_least_1():
    with pytest.raises(ConfigError, match="workers must be at least 1, not 0"):
        scan_images([], [], fail_on_some, workers=0)


def test_headers_of_files_and_bytes(tmp_path):
    image = random_images(1, side=400)[0][:300]
    data = encode(image, "JPEG")
    assert len(data) > 1 << 16
    (tmp_path / "a.jpg").write_bytes(data)
    profile = b"\xff\xe2\xff\xff" + bytes(0xFFFD)  # a segment longer than the bytes that are read first
    (tmp_path / "b.jpg").write_bytes(data[:2] + profile + profile + data[2:])
    (tmp_path / "c.jpg").write_bytes(data[:2] + profile)
    storage = [tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "c.jpg", encode(image), b"no image"]
    headers, bad = scan_headers(list("abcde"), storage, 10**6)
    assert headers[:2] == [Header("JPEG", 300, 400, "RGB")] * 2
    assert headers[3] == Header("PNG", 300, 400, "RGB")
    assert headers[2] is headers[4] is None
    assert [line[:3] for line in bad] == ["c: ", "e: "]


def test_the_error_is_one_line_with_the_options_that_help():
    error = BadDataError([f"{name}.jpg: truncated" for name in "abcde"], 2000, "pets")
    assert str(error) == (
        "5 of 2,000 images cannot be read: a.jpg: truncated; b.jpg: truncated; c.jpg: truncated; … – list all with: "
        "resnetlab data check pets; skip such images with --on-bad-image skip"
    )
    assert isinstance(error, ConfigError)
    assert len(error.bad) == 5
