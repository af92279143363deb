"""Safe reading of image files: regular files only, up to a size limit, and only if they start as an image."""

import os
import stat
from pathlib import Path

from resnetlab.data.images.decode import BadImageError
from resnetlab.data.images.file_types import HEAD_BYTES
from resnetlab.data.images.sniff import detect_format

MAX_BYTES = 256 * 2**20
"""Size limit of an image file; a larger file is rejected before it fills the memory."""
HEADER_BYTES = 12
"""Bytes from which the format is detected."""


def read_image(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of an image file. Of a file that does not start as an image, return its first `HEAD_BYTES`.

    Raises:
        BadImageError: The path is not a regular file, cannot be read, or is larger than `max_bytes`.
    """
    try:
        _check_regular(path.stat().st_mode)  # opening some devices has side effects
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb", buffering=0) as file:  # noqa: PTH123
            status = os.fstat(file.fileno())
            _check_regular(status.st_mode)
            if status.st_size > max_bytes:
                raise BadImageError(_too_large(max_bytes, f"{status.st_size:,} bytes are"))
            header = file.read(HEADER_BYTES)
            if header and detect_format(header) is None:
                return header + file.read(HEAD_BYTES - len(header))  # the decoder names the format
            return header + read_limited(file.fileno(), max_bytes - len(header))
    except OSError as error:
        raise BadImageError(os_error_reason(error)) from error


def _check_regular(mode: int) -> None:
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
    """Read a file descriptor to its end. The size of pipes and of growing files is unknown beforehand.

    Raises:
        BadImageError: It has more than `max_bytes`.
    """
    chunks: list[bytes] = []
    while chunk := os.read(handle, 1 << 20):
        chunks.append(chunk)
        max_bytes -= len(chunk)
        if max_bytes < 0:
            raise BadImageError(_too_large(MAX_BYTES, "it is"))
    return b"".join(chunks)


def _too_large(max_bytes: int, subject: str) -> str:
    return f"is too large for an image: {subject} more than {max_bytes // 2**20} MiB"


def os_error_reason(error: OSError) -> str:
    """Return a short reason why a file cannot be read."""
    return "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
