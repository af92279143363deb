"""Write a file whole or not at all."""

import os
import re
import tempfile
from pathlib import Path


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` so that a reader, or a power cut, finds the old file or the new one and nothing between.

    Raises:
        OSError: where the folder cannot be written; the old file is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; a report is to be read by others
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def final_name(name: str) -> str | None:
    """Return the name of the file that `write_atomic` was writing when it was killed, and left one of this name."""
    found = re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}", name)  # mkstemp's eight characters
    return found[1] if found else None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
