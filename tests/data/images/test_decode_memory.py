"""`decode_memory` and `read_claim`: sizes as `read_header` reads them, and a bound on the memory of decoding."""

import json
import struct
import subprocess
import sys
import time
import zlib

import pytest

from helpers.odd_images import encode, encode_as, lossless_of_size, noisy_image, odd_images, png_of_size
from resnetlab.data.images.decode import BadImageError, read_header
from resnetlab.data.images.decode_memory import Claim, decode_memory, excessive_blocks, read_claim
from resnetlab.data.images.eval_view import EvalView

SIZE = 448
"""Side of the view in pixels, for the memory that is measured."""
MEASURE = """
import json, os, sys
from resnetlab.data.images.decode import decode_eval_view
from resnetlab.data.images.eval_view import EvalView

def memory(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024

def measure(path, rule):
    with open(path, "rb") as file:
        data = file.read()
    decode_eval_view(SMALL, EvalView(224, 224))
    before = memory("VmRSS:")
    decode_eval_view(data, EvalView(SIZE, SIZE, 0.875, resize_rule=rule))
    print(memory("VmHWM:") - before, flush=True)

for line in sys.stdin:
    child = os.fork()  # its largest memory begins at what it has now, and what it frees is not there for the next
    if child == 0:
        measure(*json.loads(line))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def measured_memory(tmp_path_factory):
    """A function that returns the bytes which decoding an image takes at most, in a process forked for it."""
    path = tmp_path_factory.mktemp("memory") / "image"
    code = f"SMALL, SIZE = {encode_as('jpg')!r}, {SIZE}\n{MEASURE}"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin
        assert stdout

        def measured(data, rule):
            path.write_bytes(data)
            print(json.dumps([str(path), rule]), file=stdin, flush=True)
            return int(stdout.readline())

        yield measured


def test_sizes_are_those_that_the_decoder_reads():
    read = 0
    for name, data in odd_images().items():
        try:
            header = read_header(data, 10**12)
        except BadImageError:
            continue
        claim = read_claim(data)
        assert claim is not None, name
        assert claim.format == header.format, name
        assert sorted((claim.height, claim.width)) == sorted((header.height, header.width)), name
        assert claim.is_cmyk == (header.format == "JPEG" and header.mode == "CMYK"), name
        read += 1
    assert read > 100


def test_a_frame_beyond_the_canvas_of_a_gif_counts():
    data = bytearray(encode_as("gif"))
    struct.pack_into("<HH", data, 6, 1, 1)
    claim, header = read_claim(bytes(data)), read_header(bytes(data))
    assert claim is not None
    assert (claim.height, claim.width) == (header.height, header.width)
    assert claim.width > 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"words",
        b"\xff\xd8\xff",
        b"II*\0\xff\xff\xff\xff",
        b"GIF89a" + bytes(20),
        b"P6 " + b" " * 5000,
        b"P6 " + b"#\n" * 2000,
        b"\xff\xd8" + b"\xff\xe0\0\2" * 500_000,
        b"GIF89a\1\0\1\0\0\0\0!\xfe" + b"\1x" * 1_000_000,
    ],
)
def test_a_header_without_a_size_is_left_to_the_decoder_in_a_moment(data):
    start = time.process_time()
    assert read_claim(data) is None
    assert time.process_time() - start < 0.5


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_many_blocks(suffix: str, number: int) -> bytes:
    """Return an image with that many empty blocks before its pixels."""
    data = encode_as(suffix)
    at, block = {
        "png": (33, chunk(b"teSt")),
        "jpg": (2, b"\xff\xe9\0\2"),
        "gif": (13 + (3 << (data[10] & 7) + 1), b"!\xfe\1x\0"),
        "ppm": (3, b"#x\n"),
    }[suffix]
    return data[:at] + block * number + data[at:]


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "ppm"])
def test_files_that_keep_a_decoder_busy_are_found_in_a_moment(suffix):
    start = time.process_time()
    assert "has " in (excessive_blocks(with_many_blocks(suffix, 1_000_000)) or "")
    assert excessive_blocks(with_many_blocks(suffix, 100)) is None
    assert time.process_time() - start < 0.5


def test_ordinary_images_have_few_blocks():
    for name, data in odd_images().items():
        assert excessive_blocks(data) is None, name


def test_what_follows_the_end_of_a_png_is_not_searched_for_an_orientation():
    start = time.process_time()
    read_header(encode_as("png") + bytes(15 << 20))
    assert time.process_time() - start < 0.5


def test_the_memory_follows_from_format_and_size():
    mib = 1 << 20
    assert decode_memory(Claim("PNG", 1000, 1000), 1024) == 24_000_000 + 8 * mib
    jpeg = decode_memory(Claim("JPEG", 9000, 9000), 1024)
    assert jpeg < decode_memory(Claim("PNG", 9000, 9000), 1024) / 2  # reduced while it is decoded
    assert jpeg < decode_memory(Claim("JPEG", 9000, 9000), 5000) < decode_memory(Claim("JPEG", 9000, 9000, True), 1024)
    webp = read_claim(lossless_of_size(9900, 9900))
    assert webp is not None
    assert webp == Claim("WebP", 9900, 9900)
    assert decode_memory(webp, 1024) > 3 << 30
    assert read_claim(png_of_size(encode_as("png"), 50_000, 40_000)) == Claim("PNG", 40_000, 50_000)


@pytest.mark.slow  # a process that loads PyTorch, and images of 6 million pixels
@pytest.mark.parametrize(
    ("kind", "mode", "options", "rule"),
    [
        ("WebP", "RGBA", {"lossless": True, "method": 0}, "resnetlab"),
        ("PNG", "RGBA", {"compress_level": 1}, "resnetlab"),
        ("PNG", "LA", {"compress_level": 1}, "resnetlab"),
        ("GIF", "RGB", {}, "resnetlab"),
        ("BMP", "RGBA", {}, "resnetlab"),
        ("TIFF", "RGBA", {"compression": "tiff_lzw"}, "resnetlab"),
        ("PPM", "RGB", {}, "resnetlab"),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}, "resnetlab"),
        ("JPEG", "CMYK", {}, "resnetlab"),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}, "timm"),
        ("PNG", "RGBA", {"compress_level": 1}, "timm"),
    ],
)
def test_decoding_takes_no_more_memory_than_the_bound(measured_memory, kind, mode, options, rule):
    """Of each format, the mode that takes the most; Pillow resizes by the rules of other packages."""
    data = encode(noisy_image(mode, width=60, height=40).resize((3000, 2000), 0), kind, **options)
    measured = measured_memory(data, rule)
    claim = read_claim(data)
    assert claim is not None
    assert 0 < measured <= decode_memory(claim, EvalView(SIZE, SIZE, 0.875, resize_rule=rule).jpeg_min_side)
