"""Storage of encoded images: a file, bytes in memory, or a byte range of a shard."""

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from resnetlab.data.images.shard_checks import SHARD_CHECKS, is_checked_here

OPEN_SHARDS = 128
"""Maximum number of shards open at a time. A process may often open 1,024 files, and other code needs some of them."""


class OpenFile:
    """A file open for positioned reads; it is closed when the last reference is dropped."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            OSError: If the file cannot be opened.
        """
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class OpenFileCache:
    """The most recently used open files; threads share them because each read gives its own offset."""

    def __init__(self, limit: int = OPEN_SHARDS) -> None:
        """Create a cache of at most `limit` open files."""
        self.limit = limit
        self._files: OrderedDict[Path, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path) -> OpenFile | None:
        """Return the open file if it is in the cache, else `None`."""
        with self._lock:
            found = self._files.get(path)
            if found is not None:
                self._files.move_to_end(path)
            return found

    def open(self, path: Path) -> OpenFile:
        """Return the open file; open it if it is not in the cache.

        Raises:
            OSError: If the file cannot be opened.
        """
        found = self.get(path)
        if found is not None:
            return found
        opened = OpenFile(path)
        with self._lock:
            opened = self._files.setdefault(path, opened)  # another thread may have been first
            while len(self._files) > self.limit:
                self._files.popitem(last=False)  # closed when its last reader is done
        return opened

    def discard(self, path: Path) -> None:
        """Remove a deleted file from the cache, so that the file system frees its bytes."""
        with self._lock:
            self._files.pop(path, None)


class Shard(Protocol):
    """A file that contains many images."""

    @property
    def name(self) -> str:
        """Name of the shard in error messages."""
        ...

    @property
    def sha256(self) -> str:
        """SHA-256 of the file as it was packed, in hex; empty if unknown."""
        ...

    def open(self) -> OpenFile:
        """Return the open file; download a remote shard first."""
        ...

    def confirm(self) -> None:
        """Raise an error that names the shard if its content is not as it was packed."""
        ...

    def prefetch(self, shards: Sequence[Any]) -> AbstractContextManager[None]:
        """Download shards of this kind in the given order, ahead of reads, while the context is active."""
        ...


@dataclass(frozen=True)
class LocalShard:
    """A shard on a local disk."""

    path: Path
    sha256: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def open(self) -> OpenFile:
        """Return the open file; its SHA-256 is checked in the background.

        Raises:
            OSError: If the file cannot be opened.
            DamagedShardError: If its SHA-256 is known to be wrong.
        """
        if self.sha256:
            SHARD_CHECKS.require(self.path, self.sha256)
        return _OPEN_FILES.open(self.path)

    def confirm(self) -> None:
        """Wait until the SHA-256 of the file has been checked.

        Raises:
            DamagedShardError: If it is wrong, or the file cannot be read.
        """
        if self.sha256:
            SHARD_CHECKS.wait(self.path, self.sha256)

    def prefetch(self, shards: Sequence[Any]) -> AbstractContextManager[None]:
        """Do nothing: the shards are local."""
        return nullcontext()


_OPEN_FILES = OpenFileCache()


def forget_replaced(path: Path) -> None:
    """Forget the open file and the check of a shard that was replaced since."""
    if SHARD_CHECKS.forget_changed(path):
        _OPEN_FILES.discard(path)


def confirm_shard_of(storage: "ImageStorage") -> None:
    """Confirm that the shard of an image is intact, before the image itself is called bad.

    Raises:
        DamagedShardError: If the shard is damaged.
    """
    if isinstance(storage, ByteRange):
        storage.shard.confirm()


def confirm_shards(storage: Sequence[Any]) -> None:
    """Wait until the shards of images have been checked, at the end of a pass over them.

    Under torchrun, this process waits for its share of the shards.

    Raises:
        DamagedShardError: If a shard is damaged.
    """
    shards = getattr(storage, "used_shards", None)
    found = shards() if shards else {item.shard for item in storage if isinstance(item, ByteRange)}
    for shard in sorted((shard for shard in found if isinstance(shard, LocalShard)), key=lambda shard: shard.path):
        if is_checked_here(shard.path):
            shard.confirm()


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A byte range of a shard: the encoded bytes of one image."""

    shard: Shard
    offset: int
    length: int

    def read(self) -> bytes:
        """Return all bytes of the range.

        Raises:
            OSError: If the shard cannot be read or ends before the range does.
        """
        data = os.pread(self.shard.open().fd, self.length, self.offset)
        while 0 < len(data) < self.length:  # one call reads at most 2 GiB, on some file systems less
            more = os.pread(self.shard.open().fd, self.length - len(data), self.offset + len(data))
            if not more:
                break
            data += more
        if len(data) != self.length:
            raise OSError(errno.EIO, f"{self.shard.name} ends before byte {self.offset + self.length:,}")
        return data


ImageStorage = Path | bytes | ByteRange
"""The location of an image's encoded bytes: a file, bytes in memory, or a byte range of a shard."""


def read_image_bytes(storage: ImageStorage) -> bytes:
    """Return the encoded bytes of an image.

    Raises:
        OSError: If they cannot be read.
    """
    if isinstance(storage, bytes):
        return storage
    return storage.read() if isinstance(storage, ByteRange) else storage.read_bytes()


def drop_page_cache(storage: ImageStorage) -> bool:
    """Ask the kernel to drop the cached pages of an image's file or shard; return whether the system supports it.

    Caches of the disk or of a network file system are not affected.

    Raises:
        OSError: If the file cannot be opened.
    """
    if isinstance(storage, bytes) or not hasattr(os, "posix_fadvise"):
        return False
    file = storage.shard.open() if isinstance(storage, ByteRange) else OpenFile(storage)
    # The whole file: a range would leave the pages that it shares with the next image.
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def stored_size(storage: ImageStorage) -> int:
    """Return the number of encoded bytes of an image, or -1 if its file does not exist or cannot be accessed."""
    if isinstance(storage, bytes):
        return len(storage)
    if isinstance(storage, ByteRange):
        return storage.length
    try:
        return storage.stat().st_size
    except OSError:
        return -1
