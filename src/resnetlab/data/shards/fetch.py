"""Bytes from an address, whatever fsspec can read: a block at a time, tried again with growing pauses."""

import hashlib
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from resnetlab.config import ConfigError
from resnetlab.data.registry import CREDENTIALS

T = TypeVar("T")

LOG = logging.getLogger(__name__)
"""Says what is tried again, as it happens: on stderr, where nobody has set up logging. It is no part of any result."""
BLOCK = 1 << 23
"""Bytes asked for at a time: what a connection that breaks can lose."""
STALL_S = 60.0
"""Seconds in which a block must come."""
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between attempts; each longer by up to a half, so that many machines do not come back at once."""
TRANSIENT = (408, 425, 429)
"""HTTP answers below 500 that are worth another attempt."""


class RemoteError(RuntimeError):
    """Something behind an address that cannot be read or kept; the message says what, how often it was tried, why."""


class RemoteReader:
    """A folder behind an address."""

    def __init__(self, address: str) -> None:
        """Open it; nothing is read yet.

        Raises:
            ConfigError: where fsspec, or what it needs for such an address, is missing.
        """
        try:
            import fsspec
        except ImportError as error:
            raise ConfigError(f"{address}: {error}; pip install 'resnetlab[remote]'") from error
        try:
            self.files, self.root = fsspec.core.url_to_fs(address.rstrip("/"))
        except ImportError as error:  # fsspec says which package such an address needs
            raise ConfigError(f"{address}: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{address}: cannot be read so ({error})") from error
        self.address = address.rstrip("/")

    def small(self, name: str) -> bytes:
        """Read a small file whole.

        Raises:
            FileNotFoundError: where there is none.
            RemoteError: where it cannot be read.
        """
        return self._patiently(name, lambda: self._cat(name))

    def fetch(self, name: str, num_bytes: int, sha256: str, part: Path, stop: threading.Event | None = None) -> None:
        """Read a file into `part`, going on from what is there of it already; `stop` ends it early.

        Raises:
            RemoteError: where it cannot be read, has another length, or another content: what was read wrongly is
                deleted, everything else stays for the next attempt.
        """
        for last in (False, True):
            if self._fill(name, num_bytes, part, stop or threading.Event()) == sha256:
                return
            part.unlink()
            if not last:
                LOG.warning("%s/%s: its SHA-256 is not that of index.json; fetching it once more", self.address, name)
            else:
                raise RemoteError(
                    f"{self.address}/{name}: fetched twice, and its SHA-256 is not that of index.json; it is damaged, "
                    "or was packed again meanwhile"
                )

    def blocks(self, name: str, num_bytes: int, start: int = 0, stop: threading.Event | None = None) -> Iterator[bytes]:
        """Read a file from byte `start` on, of `num_bytes` it has in all, a block at a time; `stop` ends all waiting.

        Raises:
            RemoteError: where it cannot be read.
        """
        while start < num_bytes:
            end = min(start + BLOCK, num_bytes)
            block = self._patiently(name, lambda start=start, end=end: self._block(name, start, end, num_bytes), stop)
            start += len(block)
            yield block

    def _fill(self, name: str, num_bytes: int, part: Path, stop: threading.Event) -> str:
        """Read what `part` lacks; return the SHA-256 of the whole."""
        with part.open("ab") as file:
            digest = _digest_of(part)
            for block in self.blocks(name, num_bytes, file.tell(), stop):
                file.write(block)
                digest.update(block)
                if stop.is_set():
                    raise RemoteError(f"{self.address}/{name}: stopped")
            file.flush()
            os.fsync(file.fileno())
            return digest.hexdigest() if file.tell() == num_bytes else ""

    def _block(self, name: str, start: int, end: int, num_bytes: int) -> bytes:
        """Read bytes `start` to `end`; from a server that knows no ranges all the rest."""
        block = self._cat(name, start=start, end=end)
        if len(block) == num_bytes and end - start < num_bytes:
            return block[start:]
        if not block or len(block) > end - start:
            raise OSError(f"{len(block):,} bytes came of {end - start:,}")
        return block

    def _cat(self, name: str, **where: int) -> bytes:
        from fsspec.asyn import AsyncFileSystem, sync

        path = f"{self.root}/{name}"
        if isinstance(self.files, AsyncFileSystem):
            return bytes(sync(self.files.loop, self.files._cat_file, path, timeout=STALL_S, **where) or b"")
        return bytes(self.files.cat_file(path, **where))

    def _patiently(self, name: str, read: Callable[[], T], stop: threading.Event | None = None) -> T:
        """Read, again and again where that may help, and say so each time."""
        stop, reason, attempts = stop or threading.Event(), "", 0
        for pause in (*PAUSES_S, None):
            attempts += 1
            try:
                return read()
            except FileNotFoundError:
                if name.endswith(".tar"):
                    raise RemoteError(f"{self.address}/{name}: is missing there; pack it again") from None
                raise
            except Exception as error:
                reason = _reason(error)
                if _is_final(error):
                    raise RemoteError(f"{self.address}/{name}: cannot be read ({reason}){_hint(error)}") from error
            if pause is None or stop.is_set():
                break
            pause_s = pause * (1 + random.SystemRandom().random() / 2)
            LOG.warning(
                "%s/%s: %s; trying again in %.2g s, attempt %d of %d",
                self.address,
                name,
                reason,
                pause_s,
                attempts + 1,
                len(PAUSES_S) + 1,
            )
            if stop.wait(pause_s):
                break
        advice = (
            "what was fetched stays, and the same command goes on with it"
            if name.endswith(".tar")
            else ("see whether the address is right and its server answers, and give the same command again")
        )
        raise RemoteError(f"{self.address}/{name}: cannot be read after {attempts} attempts ({reason}); {advice}")


def _is_final(error: Exception) -> bool:
    """Say whether another attempt is of no use."""
    status: Any = getattr(error, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in TRANSIENT
    return isinstance(error, PermissionError | IsADirectoryError | TypeError | NotImplementedError | ImportError)


def _hint(error: Exception) -> str:
    """Return what would work where somebody is not let in, and else nothing."""
    refused = isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)
    return f"; see whether you may read it; {CREDENTIALS}" if refused else ""


def _reason(error: Exception) -> str:
    """Return why, in a few words."""
    status, said = getattr(error, "status", None), getattr(error, "message", "")
    if isinstance(status, int):
        return f"HTTP {status}{f' {said}' if said else ''}"
    if isinstance(error, TimeoutError):
        return f"nothing came for {STALL_S:g} s"
    return " ".join(str(error).split()) or type(error).__name__


def _digest_of(path: Path) -> Any:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest
