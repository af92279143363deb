"""Varieties of known formats that no decoder here reads, named from the header: float or five-band TIFF, 12-bit JPEG.

They are undamaged, so their reason says what they are and how to save them instead.
"""

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from PIL.TiffImagePlugin import COMPRESSION_INFO, ImageFileDirectory_v2

from resnetlab.data.images.sniff import jpeg_segments

IN_8_BITS = "save it in 8 or 16 bits"
NUMBERS = {1: "integers", 2: "signed integers", 3: "floats", 4: "values", 5: "complex integers", 6: "complex floats"}
"""Names of the sample formats of TIFF 6.0; 4 is undefined data."""
COLOURS = {5: "CMYK", 6: "YCbCr", 8: "CIELAB", 9: "ICCLAB", 10: "ITULAB", 32844: "LogL", 32845: "LogLuv"}
"""Colour spaces of TIFF that a reason names."""
RAW_SENSOR = (32803, 34892)
"""Photometric interpretations of values from a sensor: colour filter array, linear raw."""
PHOTOMETRIC = {0, 1, 2, 3, 4, *COLOURS, *RAW_SENSOR}
COMPRESSIONS = {
    9: "JBIG",
    10: "JBIG",
    32766: "NeXT",
    32809: "ThunderScan",
    32908: "PixarFilm",
    32909: "PixarLog",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34676: "SGI Log",
    34677: "SGI Log",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    34925: "LZMA",
    34934: "JPEG XR",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""Names of the compressions of TIFF that Pillow or its libtiff may lack."""
UNSUPPORTED_TEXT = re.compile(
    r"unsupported|not (yet )?(supported|implemented|configured)|unrecogni[sz]ed|no support|cannot handle|unknown (data|"
    r"compression|pixel|image) (scheme|mode|format)|conversion from \S+ to \S+ not|decoder \S+ not available",
    re.IGNORECASE,
)
"""Messages of Pillow and libtiff about what they do not read, in contrast to damage."""
_MAX_BITS, _MAX_SAMPLES = 64, 64
"""A header with more bits or samples is more likely damaged."""
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
_HIERARCHICAL = {0xC5, 0xC6, 0xCD, 0xCE, 0xDE}
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA} | _LOSSLESS | _HIERARCHICAL | {0xF7}


def unread_variety(data: bytes, kind: str, message: str) -> str | None:
    """Return the reason why an undamaged image is not read, or `None` if its header explains nothing.

    Args:
        data: The encoded image, which a decoder has rejected.
        kind: Its format.
        message: The decoder's message.
    """
    if kind == "TIFF":
        return _unread_tiff(data, message)
    if kind == "JPEG" and (reason := _unread_jpeg(data)):
        return reason
    if kind == "PNG" and data[12:16] == b"CgBI":
        return "a PNG in Apple's variety for iOS (CgBI), which is not read; convert it with pngcrush"
    if UNSUPPORTED_TEXT.search(message):
        return f"a variety of {kind} that is not read ({message}); save it as PNG"
    return None


def tiff_reason(tags: Mapping[int, Any], message: str = "") -> str | None:
    """Return what an unread TIFF is, from its tags, or `None` if the tags are implausible."""
    compression, bits = tags.get(259, 1), _numbers(tags.get(258, 1))
    samples, interpretation = tags.get(277, len(bits)), tags.get(262, 1)
    kinds = set(_numbers(tags.get(339, 1)))
    numbers = (compression, samples, interpretation, *bits, *kinds)
    if not all(isinstance(number, int) for number in numbers) or interpretation not in PHOTOMETRIC:
        return None
    if not (min(bits) >= 1 and max(bits) <= _MAX_BITS and 1 <= samples <= _MAX_SAMPLES and kinds <= NUMBERS.keys()):
        return None
    if compression in COMPRESSIONS and (compression not in COMPRESSION_INFO or UNSUPPORTED_TEXT.search(message)):
        name = COMPRESSIONS[compression]
        return f"a TIFF with {name} compression, which is not read; save it with LZW or deflate compression"
    if interpretation in RAW_SENSOR:
        return "a TIFF of raw sensor values, which is not read; export it as JPEG or TIFF with a raw developer"
    depth = f"{bits[0]}-bit" if len(set(bits)) == 1 else f"{'/'.join(map(str, bits))}-bit"
    noun = NUMBERS[next(iter(kinds))] if len(kinds) == 1 else "values of several types"
    colours = f" in {COLOURS[interpretation]}" if interpretation in COLOURS else ""
    remedy = "save it as PNG" if set(bits) <= {8, 16} and kinds == {1} else IN_8_BITS
    if samples > 4 or samples == 2 or (samples == 4 and interpretation not in (2, 5)):
        remedy = "save one band as grey or three as RGB, in 8 or 16 bits"
    if colours:
        remedy = "save it as RGB in 8 or 16 bits"
    return f"a TIFF of {samples} x {depth} {noun}{colours}, which is not read; {remedy}"


def read_tiff_tags(data: bytes) -> Mapping[int, Any] | None:
    """Return the tags of the first image of a TIFF or BigTIFF, or `None` if they are damaged."""
    try:
        directory = ImageFileDirectory_v2(data[:16] if data[2:3] == b"+" or data[3:4] == b"+" else data[:8])
        file = BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        return dict(directory.items())
    except Exception:
        return None


def _unread_tiff(data: bytes, message: str) -> str | None:
    if not UNSUPPORTED_TEXT.search(message) and not re.fullmatch(
        r"\d+|unknown data organization|Invalid value for samples.*", message
    ):
        return None  # a number is the KeyError of an unknown compression
    tags = read_tiff_tags(data)
    return None if tags is None or not {256, 257} <= tags.keys() else tiff_reason(tags, message)


def _unread_jpeg(data: bytes) -> str | None:
    for marker, start in jpeg_segments(data):
        if marker not in _FRAMES or start + 10 > len(data):
            continue
        precision, components = data[start + 4], data[start + 9]
        if marker == 0xF7:
            return "a JPEG-LS, which is not read; save it as PNG"
        if marker in _LOSSLESS | _HIERARCHICAL:
            word = "lossless" if marker in _LOSSLESS else "hierarchical"
            return f"a {word} JPEG, which is not read; save it as a usual JPEG or as PNG"
        if precision in (12, 16):
            return f"a JPEG of {precision} bits a channel, which is not read; save it in 8 bits"
        if components == 2 or 5 <= components <= 16:
            return f"a JPEG of {components} channels, which is not read; save it as grey or RGB"
    return None


def _numbers(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple) else (value,)
