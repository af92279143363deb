"""A SHA-256 checksum embedded in the file itself. It detects damage and mixed-up files; it does not prevent forgery."""

import hashlib
import re
from pathlib import Path

NAME = "resnetlab_sha256"
DIGITS = 64
PLACEHOLDER = "0" * DIGITS
"""The digits that stand for the checksum while it is computed."""
CHUNK_BYTES = 2**20


def embed_checksum(content: bytes, marker: bytes, companion: Path | None = None) -> bytes:
    """Return the content of a file with its checksum in place of the zeros after the last `marker`.

    Args:
        content: The whole file.
        marker: The bytes right before the checksum.
        companion: A further file that the checksum covers.
    """
    start = _find_checksum(content, marker)
    assert content[start : start + DIGITS] == PLACEHOLDER.encode()
    return content[:start] + _digest(content, start, companion) + content[start + DIGITS :]


def verify_checksum(content: bytes, marker: bytes, companion: Path | None = None) -> bool:
    """Return whether the checksum in a file matches its content and that of its companion.

    Raises:
        OSError: The companion cannot be read.
    """
    start = _find_checksum(content, marker)
    return start >= 0 and content[start : start + DIGITS] == _digest(content, start, companion)


def _find_checksum(content: bytes, marker: bytes) -> int:
    """Return the position of the checksum, or -1."""
    position = content.rfind(marker)
    start = position + len(marker)
    return start if position >= 0 and re.fullmatch(rb"[0-9a-f]{64}", content[start : start + DIGITS]) else -1


def _digest(content: bytes, start: int, companion: Path | None) -> bytes:
    view = memoryview(content)
    digest = hashlib.sha256(view[:start])
    digest.update(PLACEHOLDER.encode())
    digest.update(view[start + DIGITS :])
    if companion is not None:
        with companion.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest().encode()
