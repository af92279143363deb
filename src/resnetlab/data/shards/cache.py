"""A bounded folder of files named by their SHA-256; processes share it, and what was used least recently leaves."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from resnetlab.config import ConfigError
from resnetlab.data.images.storage import stored_size as num_bytes_of
from resnetlab.system.atomic_files import write_atomic

PART, LOCK = ".part", ".lock"
FORGOTTEN_S = 86_400
"""Seconds after which an unfinished file is nobody's any more."""


class ShardCache:
    """Files that can be fetched again, kept as long as there is room."""

    def __init__(self, folder: Path, num_bytes: int) -> None:
        """Keep them in `folder`, `stored_size` at most.

        Raises:
            ConfigError: where the folder cannot be made.
        """
        self.folder, self.num_bytes = folder, num_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be written ({error.strerror}); choose another folder with --data-root"
            ) from error

    def path(self, sha256: str) -> Path:
        """Return where a file is, or would be."""
        return self.folder / sha256

    def keep(self, path: Path, content: bytes) -> None:
        """Keep a small file; where it cannot be written, it is not kept."""
        with suppress(OSError):
            write_atomic(path, content)

    def touch(self, path: Path) -> None:
        """Note that a file is used, if it is there."""
        now = time.time_ns()  # the kernel's own clock for files ticks some hundred times a second
        with suppress(OSError):
            os.utime(path, ns=(now, now))

    @contextmanager
    def filling(self, sha256: str, num_bytes: int, wanted: Callable[[], bool]) -> Iterator[Path | None]:
        """Lend the path of a part that is to be made whole, to one process or thread at a time.

        What an earlier one left of it is there still. When the context ends well, the part becomes the file. `None`
        where the file is there already, or is not wanted any more when its turn has come.
        """
        path = self.path(sha256)
        with FileLock(self.folder / f"{sha256}{LOCK}", thread_local=False):
            if num_bytes_of(path) == num_bytes or not wanted():
                self.touch(path)
                yield None
                return
            part = self.folder / f"{sha256}{PART}"
            yield part
            part.replace(path)
            self.touch(path)

    def trim(self) -> list[Path]:
        """Delete the files used least recently, until the others fit; return which."""
        with FileLock(self.folder / f"trim{LOCK}", thread_local=False):
            found = []
            for path in self.folder.iterdir():
                with suppress(FileNotFoundError):
                    status = path.stat()
                    if path.suffix == PART and time.time() - status.st_mtime > FORGOTTEN_S:
                        path.unlink()
                    elif path.suffix != LOCK:
                        found.append((status.st_mtime, status.st_size, path))
            total = sum(size for _, size, _ in found)
            gone = []
            for _, size, path in sorted(found):
                if total <= self.num_bytes:
                    break
                if path.suffix != PART:
                    path.unlink(missing_ok=True)
                    gone.append(path)
                    total -= size
            return gone
