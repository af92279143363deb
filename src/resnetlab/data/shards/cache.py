"""A folder of limited size for downloaded files, shared by processes; least recently used files are deleted first."""

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from resnetlab.config import ConfigError
from resnetlab.data.images.storage import stored_size
from resnetlab.system.atomic_files import final_name, write_atomic

PART, LOCK = ".part", ".lock"
CACHED = re.compile(r"[0-9a-f]{64}(\.part)?")
"""Names of the files that the cache writes, but for its locks."""
STALE_PART_S = 86_400
"""Seconds without a change after which an unfinished file is deleted."""


class ShardCache:
    """Files named by their SHA-256 that can be downloaded again if they are deleted."""

    def __init__(self, folder: Path, num_bytes: int) -> None:
        """Create the cache folder; its files may have `num_bytes` together.

        Raises:
            ConfigError: If the folder cannot be created.
        """
        self.folder, self.num_bytes = folder, num_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be written ({error.strerror}); give another folder with --data-root"
            ) from error

    def path(self, sha256: str) -> Path:
        """Return the path of a file, whether it exists or not."""
        return self.folder / sha256

    def store(self, path: Path, content: bytes) -> None:
        """Write a small file. A failure is ignored, because the file can be downloaded again."""
        with suppress(OSError):
            write_atomic(path, content)

    def touch(self, path: Path) -> None:
        """Record that a file is in use, if it exists."""
        now = time.time_ns()  # the kernel's own clock for files has a resolution of only some milliseconds
        with suppress(OSError):
            os.utime(path, ns=(now, now))

    @contextmanager
    def fill(
        self, sha256: str, num_bytes: int, is_needed: Callable[[], bool], is_intact: Callable[[Path], bool]
    ) -> Iterator[Path | None]:
        """Return the path of a partial file to complete, for one process or thread at a time.

        The partial file may already contain bytes of an earlier attempt. It becomes the final file when the context
        ends without an exception.

        Args:
            sha256: SHA-256 of the file.
            num_bytes: Size of the file.
            is_needed: Returns whether the file is still needed; called once the lock is held.
            is_intact: Returns whether a file of the right size has the right content, else it is deleted.

        Returns:
            The path, or `None` if the file exists already or is no longer needed.
        """
        path = self.path(sha256)
        with FileLock(self.folder / f"{sha256}{LOCK}", thread_local=False):
            if not is_needed():
                self.touch(path)
                yield None
                return
            if stored_size(path) == num_bytes:
                if is_intact(path):
                    self.touch(path)
                    yield None
                    return
                path.unlink(missing_ok=True)
            partial = self.folder / f"{sha256}{PART}"
            yield partial
            partial.replace(path)
            self.touch(path)

    def trim(self) -> list[Path]:
        """Delete the least recently used files until the others fit; return the deleted paths.

        Only files with the names that the cache gives count: the folder may hold files of the user.
        """
        with FileLock(self.folder / f"trim{LOCK}", thread_local=False):
            files = []
            for path in self.folder.iterdir():
                if not CACHED.fullmatch(final_name(path.name) or path.name):
                    continue
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    if path.suffix == PART and time.time() - status.st_mtime > STALE_PART_S:
                        path.unlink()
                    else:
                        files.append((status.st_mtime, status.st_size, path))
            total = sum(size for _, size, _ in files)
            deleted = []
            for _, size, path in sorted(files):
                if total <= self.num_bytes:
                    break
                if path.suffix != PART:
                    path.unlink(missing_ok=True)
                    deleted.append(path)
                    total -= size
            return deleted
