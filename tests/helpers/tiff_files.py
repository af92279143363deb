"""A writer of TIFF files in layouts that Pillow does not write: planes, tiles, both byte orders, predictors."""

import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np

SHORT, LONG = 3, 4
CODECS: dict[int, Callable[[bytes], bytes]] = {}


def write_tiff(
    pixels: np.ndarray,
    *,
    photometric: int = 2,
    planar: bool = False,
    compression: int = 1,
    predictor: bool = False,
    big_endian: bool = False,
    tile: int | None = None,
    rows_per_strip: int | None = None,
    extra: Sequence[int] = (),
    bits: int | None = None,
    tags: Sequence[tuple[int, int, Sequence[int]]] = (),
) -> bytes:
    """Return a TIFF of pixels (height, width, channels), whose sample format is that of the array's type.

    Args:
        pixels: The array.
        photometric: The interpretation, such as 1 for grey, 2 for RGB, 5 for CMYK.
        planar: Store one channel after the other.
        compression: 1 for none, 5 for LZW, 8 for deflate.
        predictor: Store differences of neighbours in a row (predictor 2).
        big_endian: Byte order of the file.
        tile: Side of the tiles, a multiple of 16; strips if not given.
        rows_per_strip: Rows of a strip; all if not given.
        extra: The meaning of each channel beyond those of the interpretation.
        bits: Bits per sample in the header, if they are not those of the array's type.
        tags: Further tags as (tag, type, values).
    """
    order = ">" if big_endian else "<"
    height, width, channels = pixels.shape
    dtype = pixels.dtype.newbyteorder(order)
    block_height, block_width = (tile, tile) if tile else (rows_per_strip or height, width)
    parts = [pixels[:, :, [channel]] for channel in range(channels)] if planar else [pixels]
    blocks = []
    for part in parts:
        for top in range(0, height, block_height):
            for left in range(0, width, block_width):
                block = part[top : top + block_height, left : left + block_width]
                if tile:
                    below, right = tile - block.shape[0], tile - block.shape[1]
                    block = np.pad(block, ((0, below), (0, right), (0, 0)))
                if predictor:
                    block = np.concatenate([block[:, :1], np.diff(block, axis=1)], axis=1)
                blocks.append(CODECS[compression](block.astype(dtype).tobytes()))
    formats = {"u": 1, "i": 2, "f": 3, "c": 6}
    offsets = list(np.cumsum([8, *map(len, blocks[:-1])]))
    fields: list[tuple[int, int, Sequence[int]]] = [
        (256, LONG, [width]),
        (257, LONG, [height]),
        (258, SHORT, [bits or 8 * pixels.dtype.itemsize] * channels),
        (259, SHORT, [compression]),
        (262, SHORT, [photometric]),
        (277, SHORT, [channels]),
        (284, SHORT, [2 if planar else 1]),
        (339, SHORT, [formats[pixels.dtype.kind]] * channels),
        *tags,
    ]
    if predictor:
        fields.append((317, SHORT, [2]))
    if extra:
        fields.append((338, SHORT, list(extra)))
    lengths = [len(block) for block in blocks]
    if tile:
        fields += [(322, LONG, [tile]), (323, LONG, [tile]), (324, LONG, offsets), (325, LONG, lengths)]
    else:
        fields += [(273, LONG, offsets), (278, LONG, [block_height]), (279, LONG, lengths)]
    return _assemble(order, b"".join(blocks), sorted(fields))


def _assemble(order: str, body: bytes, fields: Sequence[tuple[int, int, Sequence[int]]]) -> bytes:
    start = 8 + len(body) + len(body) % 2
    end = start + 2 + 12 * len(fields) + 4
    directory, values = struct.pack(order + "H", len(fields)), b""
    for tag, kind, numbers in fields:
        data = struct.pack(order + {SHORT: "H", LONG: "I", 7: "B"}[kind] * len(numbers), *numbers)
        directory += struct.pack(order + "HHI", tag, kind, len(numbers))
        if len(data) > 4:
            directory += struct.pack(order + "I", end + len(values))
            values += data + bytes(len(data) % 2)
        else:
            directory += data.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", start) + body + bytes(len(body) % 2) + directory + bytes(4) + values


def lzw(data: bytes) -> bytes:
    """Encode bytes as TIFF's LZW in codes of 9 bits: the table is cleared before a code would need more."""
    codes = []
    for start in range(0, max(1, len(data)), 200):
        codes += [256, *data[start : start + 200]]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8)


CODECS |= {1: bytes, 5: lzw, 8: zlib.compress}
