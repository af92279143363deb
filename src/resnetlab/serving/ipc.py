"""Messages between the server and its worker: a JSON header and a binary payload, prefixed by their lengths.

Not pickle: reading a message can never run code.
"""

import json
import struct
from asyncio import IncompleteReadError, StreamReader
from collections.abc import Mapping
from typing import Any, BinaryIO

LENGTHS = struct.Struct("!II")
"""Bytes of the JSON header, bytes of the payload."""

Message = tuple[dict[str, Any], bytes]
"""Header and payload."""


def encode_message(header: Mapping[str, Any], payload: bytes = b"") -> bytes:
    """Return a message as bytes."""
    return encode_header(header, len(payload)) + payload


def encode_header(header: Mapping[str, Any], payload_size: int) -> bytes:
    """Return what precedes the payload of a message, to send a large payload without a copy."""
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return LENGTHS.pack(len(text), payload_size) + text


async def receive_message(reader: StreamReader) -> Message | None:
    """Read a message; return `None` if the other process closed the pipe, also in the middle of a message."""
    try:
        header_size, payload_size = LENGTHS.unpack(await reader.readexactly(LENGTHS.size))
        header = await reader.readexactly(header_size)
        return json.loads(header), await reader.readexactly(payload_size) if payload_size else b""
    except (IncompleteReadError, ConnectionError):
        return None


def read_message(file: BinaryIO) -> Message | None:
    """Read a message from a buffered file, blocking; return `None` at the end of the file."""
    lengths = file.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    header_size, payload_size = LENGTHS.unpack(lengths)
    header, payload = file.read(header_size), file.read(payload_size)
    if len(header) < header_size or len(payload) < payload_size:
        return None
    return json.loads(header), payload
