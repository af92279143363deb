"""A seal: the SHA-256 of a file, inside the file. It shows damage and mixed-up parts; forgery it does not show."""

import hashlib
import re
from pathlib import Path

NAME = "resnetlab_sha256"
DIGITS = 64
OPEN = "0" * DIGITS
"""What stands in the file where the seal will, and what it is computed with."""
CHUNK = 2**20


def embed_checksum(content: bytes, mark: bytes, beside: Path | None = None) -> bytes:
    """Return a file's content with its seal in the place of the zeros that follow the last `mark`.

    Args:
        content: All of the file.
        mark: The bytes right before the seal.
        beside: Another file that belongs to it, and which the seal vouches for too.
    """
    start = _place(content, mark)
    assert content[start : start + DIGITS] == OPEN.encode()
    return content[:start] + _digest(content, start, beside) + content[start + DIGITS :]


def verify_checksum(content: bytes, mark: bytes, beside: Path | None = None) -> bool:
    """Say whether a file's content, and that of the file beside it, are what was sealed.

    Raises:
        OSError: where the file beside it cannot be read.
    """
    start = _place(content, mark)
    return start >= 0 and content[start : start + DIGITS] == _digest(content, start, beside)


def _place(content: bytes, mark: bytes) -> int:
    found = content.rfind(mark)
    start = found + len(mark)
    return start if found >= 0 and re.fullmatch(rb"[0-9a-f]{64}", content[start : start + DIGITS]) else -1


def _digest(content: bytes, start: int, beside: Path | None) -> bytes:
    whole = memoryview(content)
    digest = hashlib.sha256(whole[:start])
    digest.update(OPEN.encode())
    digest.update(whole[start + DIGITS :])
    if beside is not None:
        with beside.open("rb") as file:
            while part := file.read(CHUNK):
                digest.update(part)
    return digest.hexdigest().encode()
