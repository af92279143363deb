"""The bytes of an image's file: nothing that is no file is opened, and nothing that is no image fills the memory."""

import os
import stat
from pathlib import Path

from resnetlab.data.images.decode import BadImageError
from resnetlab.data.images.sniff import detect_format

MAX_BYTES = 256 * 2**20
"""A file of more is no picture: it is refused before it fills the memory."""
HEAD = 12
"""Bytes that tell a format."""


def read_image(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Read the file of an image, its first bytes first.

    Raises:
        BadImageError: where it is no file, cannot be read, does not begin as an image, or is larger than `max_bytes`.
    """
    try:
        _refuse_special(path.stat().st_mode)  # opening some devices has effects
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb", buffering=0) as file:  # noqa: PTH123
            status = os.fstat(file.fileno())
            _refuse_special(status.st_mode)
            if status.st_size > max_bytes:
                raise BadImageError(_too_large(max_bytes, f"{status.st_size:,} bytes are"))
            head = file.read(HEAD)
            if head and detect_format(head) is None:
                return head  # the decoder says so in its own words
            return head + read_limited(file.fileno(), max_bytes - len(head))
    except OSError as error:
        raise BadImageError(os_error_reason(error)) from error


def _refuse_special(mode: int) -> None:
    kinds = {
        stat.S_IFDIR: "folder",
        stat.S_IFIFO: "pipe",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "device",
        stat.S_IFBLK: "device",
    }
    if not stat.S_ISREG(mode):
        raise BadImageError(f"is a {kinds.get(stat.S_IFMT(mode), 'special file')}, not a file")


def read_limited(handle: int, max_bytes: int) -> bytes:
    """Read until the end; files that grow, and pipes, may not have said how long they are.

    Raises:
        BadImageError: for more than `max_bytes`.
    """
    parts: list[bytes] = []
    while part := os.read(handle, 1 << 20):
        parts.append(part)
        max_bytes -= len(part)
        if max_bytes < 0:
            raise BadImageError(_too_large(MAX_BYTES, "it is"))
    return b"".join(parts)


def _too_large(max_bytes: int, what: str) -> str:
    return f"is too large for an image: {what} more than {max_bytes // 2**20} MiB"


def os_error_reason(error: OSError) -> str:
    """Return why a file cannot be read, in a few words."""
    return "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
