"""Atomic writes: a file is written completely or not at all."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file such that readers, also after a power cut, find either the old or the new content.

    Raises:
        OSError: If the folder cannot be written; it names `path`. The old file is then unchanged.
    """
    try:
        _write_atomic(path, content)
    except OSError as error:
        # A failed write has no file name, and other failures have that of the temporary file.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _write_atomic(path: Path, content: bytes | str) -> None:
    with open_atomic(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for reading and writing that replaces `path` when the body ends.

    If the body raises, the temporary file is deleted and `path` stays unchanged.

    Raises:
        OSError: If the folder cannot be written.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; other users may read a report
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def final_name(name: str) -> str | None:
    """Return the target of a temporary file that a killed `write_atomic` left behind, or `None` for any other file."""
    match = re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}", name)  # mkstemp appends eight characters
    return match[1] if match else None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
