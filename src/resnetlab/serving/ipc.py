"""Messages between the server and its worker: a JSON object and some bytes, their lengths before them. No pickle."""

import json
import struct
from asyncio import IncompleteReadError, StreamReader
from collections.abc import Mapping
from typing import Any, BinaryIO

LENGTHS = struct.Struct("!II")
"""Bytes of the JSON, and of what follows it."""

Frame = tuple[dict[str, Any], bytes]


def encode_message(said: Mapping[str, Any], payload: bytes = b"") -> bytes:
    """Return a frame as bytes."""
    words = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    return LENGTHS.pack(len(words), len(payload)) + words + payload


async def receive_message(reader: StreamReader) -> Frame | None:
    """Read a frame; `None` where the other side has ended, or breaks off."""
    try:
        size, extra = LENGTHS.unpack(await reader.readexactly(LENGTHS.size))
        words = await reader.readexactly(size)
        return json.loads(words), await reader.readexactly(extra) if extra else b""
    except (IncompleteReadError, ConnectionError):
        return None


def read_message(file: BinaryIO) -> Frame | None:
    """Read a frame from a buffered file, waiting for it; `None` at its end."""
    head = file.read(LENGTHS.size)
    if len(head) < LENGTHS.size:
        return None
    size, extra = LENGTHS.unpack(head)
    words, payload = file.read(size), file.read(extra)
    if len(words) < size or len(payload) < extra:
        return None
    return json.loads(words), payload
