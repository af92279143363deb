"""Where the bytes of an image lie: a file of its own, memory, or a piece of a shard."""

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

OPEN_SHARDS = 128
"""Shards held open at a time; a process may often open 1,024 files, and other things need some."""


class OpenFile:
    """A file open for reading by position; closed when the last who uses it lets go."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            OSError: where it cannot be opened.
        """
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class OpenFileCache:
    """The files that were read last, held open; threads share them, since each read says where."""

    def __init__(self, limit: int = OPEN_SHARDS) -> None:
        """Hold so many at most."""
        self.limit = limit
        self._held: OrderedDict[Path, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def held(self, path: Path) -> OpenFile | None:
        """Return the open file, if it is one of those."""
        with self._lock:
            found = self._held.get(path)
            if found is not None:
                self._held.move_to_end(path)
            return found

    def open(self, path: Path) -> OpenFile:
        """Return the open file.

        Raises:
            OSError: where it cannot be opened.
        """
        found = self.held(path)
        if found is not None:
            return found
        opened = OpenFile(path)
        with self._lock:
            opened = self._held.setdefault(path, opened)  # of two threads one was first
            while len(self._held) > self.limit:
                self._held.popitem(last=False)  # closed once nobody reads from it any more
        return opened

    def drop(self, path: Path) -> None:
        """Let go of a file that was deleted, so that its bytes are freed."""
        with self._lock:
            self._held.pop(path, None)


class Shard(Protocol):
    """A file that holds many images."""

    @property
    def name(self) -> str:
        """What an error calls it."""
        ...

    @property
    def sha256(self) -> str:
        """SHA-256 of the file as it was packed, in hex; nothing where that is not known."""
        ...

    def open(self) -> OpenFile:
        """Return the file, open; one that is far away is brought here first."""
        ...

    def bring(self, shards: Sequence[Any]) -> AbstractContextManager[None]:
        """Have shards of this kind brought here before they are read, in their order, while the context lasts."""
        ...


@dataclass(frozen=True)
class LocalShard:
    """A shard on a disk of this machine."""

    path: Path
    sha256: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def open(self) -> OpenFile:
        """Return the file, open.

        Raises:
            OSError: where it cannot be opened.
        """
        return _OPEN.open(self.path)

    def bring(self, shards: Sequence[Any]) -> AbstractContextManager[None]:
        """Do nothing: they are here."""
        return nullcontext()


_OPEN = OpenFileCache()


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Some bytes of a shard: an image."""

    shard: Shard
    offset: int
    length: int

    def read(self) -> bytes:
        """Read it whole.

        Raises:
            OSError: where the shard cannot be read, or ends too early.
        """
        data = os.pread(self.shard.open().number, self.length, self.offset)
        while 0 < len(data) < self.length:  # one call reads 2 GiB at most, and some file systems less
            more = os.pread(self.shard.open().number, self.length - len(data), self.offset + len(data))
            if not more:
                break
            data += more
        if len(data) != self.length:
            raise OSError(errno.EIO, f"{self.shard.name} ends before byte {self.offset + self.length:,}")
        return data


ImageStorage = Path | bytes | ByteRange
"""A file, the content of one, or a piece of a shard."""


def read_image_bytes(place: ImageStorage) -> bytes:
    """Return the bytes of an image.

    Raises:
        OSError: where they cannot be read.
    """
    if isinstance(place, bytes):
        return place
    return place.read() if isinstance(place, ByteRange) else place.read_bytes()


def drop_page_cache(place: ImageStorage) -> bool:
    """Have the kernel drop the pages it keeps of an image's file or shard; say whether that can be asked for.

    What a disk or a network file system keeps itself stays there.

    Raises:
        OSError: where the file cannot be opened.
    """
    if isinstance(place, bytes) or not hasattr(os, "posix_fadvise"):
        return False
    file = place.shard.open() if isinstance(place, ByteRange) else OpenFile(place)
    os.posix_fadvise(file.number, 0, 0, os.POSIX_FADV_DONTNEED)  # all: pages in which others begin would stay
    return True


def stored_size(place: ImageStorage) -> int:
    """Return the length of an image, -1 of a file that cannot be seen."""
    if isinstance(place, bytes):
        return len(place)
    if isinstance(place, ByteRange):
        return place.length
    try:
        return place.stat().st_size
    except OSError:
        return -1
