"""Downloads from any URL that fsspec can read, in blocks, with retries after growing delays."""

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
from resnetlab.data.shards.redirects import RedirectError, redirect_options
from resnetlab.system.retry import FailedAttemptsError, describe_error, is_refusal, retry

T = TypeVar("T")

LOG = logging.getLogger(__name__)
"""Logs each retry; without a logging configuration it goes to stderr. No result depends on it."""
BLOCK_BYTES = 1 << 23
"""Bytes of one request, and the most that a broken connection loses."""
MIN_BLOCK_BYTES = 1 << 16
"""A block that does not arrive in time is halved, down to this."""
MAX_SMALL_BYTES = 1 << 28
"""Most bytes of `index.json`: that of 100,000 shards has about a tenth of it."""
TIMEOUT_S = 60.0
"""Seconds within which a block must arrive."""
RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between attempts. Up to half of each is added at random, so that many machines do not retry at once."""
PERMANENT_ERRORS = (
    RedirectError,
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    ValueError,  # an invalid address, also that of a redirect
    TypeError,
    NotImplementedError,
    ImportError,
)
"""Errors after which another attempt would fail as well."""


class TooLargeError(ValueError):
    """A file that is larger than it may be."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"it has more than {max_bytes:,} bytes")


class RemoteError(RuntimeError):
    """A remote file cannot be read or stored; the message names the file, the number of attempts and the reason."""


class RemoteReader:
    """A folder behind a URL."""

    def __init__(self, url: str) -> None:
        """Prepare access to the folder; nothing is read yet.

        Raises:
            ConfigError: If fsspec, or the package that it needs for this URL, is missing.
        """
        try:
            import fsspec
        except ImportError as error:
            raise ConfigError(f"{url}: {error}; pip install 'resnetlab[remote]'") from error
        try:
            self.file_system, self.root = fsspec.core.url_to_fs(url.rstrip("/"), **redirect_options(url))
        except ImportError as error:  # fsspec's message names the missing package
            raise ConfigError(f"{url}: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{url}: not a URL that fsspec can read ({error})") from error
        self.url = url.rstrip("/")

    def read_small(self, name: str, max_bytes: int = MAX_SMALL_BYTES) -> bytes:
        """Return the content of a small file.

        Raises:
            FileNotFoundError: If the file does not exist.
            RemoteError: If the file cannot be read, or is larger than `max_bytes`.
        """
        return self._retry(name, lambda: self._read(name, max_bytes))

    def download(
        self, name: str, partial: Path, *, num_bytes: int, sha256: str, stop: threading.Event | None = None
    ) -> None:
        """Download a file to `partial`; bytes that are already there are not requested again.

        Args:
            name: The file's name in the folder.
            partial: The local file.
            num_bytes: Size of the file.
            sha256: SHA-256 of the file, in hex.
            stop: Ends the download early when it is set.

        Raises:
            RemoteError: If the file cannot be read, or has another size or content than expected. Wrong content is
                deleted; everything else stays for the next attempt.
        """
        for is_last in (False, True):
            if self._complete(name, num_bytes, partial, stop or threading.Event()) == sha256:
                return
            partial.unlink()
            if not is_last:
                LOG.warning("%s/%s: its SHA-256 differs from index.json; downloading it again", self.url, name)
        raise RemoteError(
            f"{self.url}/{name}: downloaded twice, and its SHA-256 differs from index.json; start again if it was "
            "packed again meanwhile, else pack it again"
        )

    def blocks(
        self, name: str, num_bytes: int, *, start: int = 0, stop: threading.Event | None = None
    ) -> Iterator[bytes]:
        """Yield a file of `num_bytes` from byte `start` on in blocks; setting `stop` ends the wait for a retry.

        Raises:
            RemoteError: If the file cannot be read.
        """
        size = BLOCK_BYTES

        def read(start: int) -> bytes:
            nonlocal size
            try:
                return self._read_block(name, start, min(start + size, num_bytes), num_bytes=num_bytes)
            except TimeoutError:  # a slow server: the next attempt requests less
                size = max(size // 2, MIN_BLOCK_BYTES)
                raise

        while start < num_bytes:
            block = self._retry(name, lambda start=start: read(start), stop)
            start += len(block)
            size = min(2 * size, BLOCK_BYTES)
            yield block

    def _complete(self, name: str, num_bytes: int, partial: Path, stop: threading.Event) -> str:
        """Append the missing bytes to `partial`; return the SHA-256 of the whole, or "" if its size is wrong."""
        with partial.open("ab") as file:
            digest = _sha256_of(partial)
            for block in self.blocks(name, num_bytes, start=file.tell(), stop=stop):
                file.write(block)
                digest.update(block)
                if stop.is_set():
                    raise RemoteError(f"{self.url}/{name}: stopped")
            file.flush()
            os.fsync(file.fileno())
            return digest.hexdigest() if file.tell() == num_bytes else ""

    def _read_block(self, name: str, start: int, end: int, *, num_bytes: int) -> bytes:
        """Return bytes `start` to `end`; all remaining bytes if the server does not support ranges."""
        block = self._read(name, num_bytes, start=start, end=end)
        if len(block) == num_bytes and end - start < num_bytes:
            return block[start:]
        if not block or len(block) > end - start:
            raise OSError(f"{len(block):,} bytes received instead of {end - start:,}")
        return block

    def _read(self, name: str, max_bytes: int, **byte_range: int) -> bytes:
        """Return a file, or a range of it; a server that does not support ranges may send the whole file.

        Raises:
            TooLargeError: If there are more than `max_bytes`; of a web server no more are read.
        """
        from fsspec.asyn import AsyncFileSystem, sync

        path, system = f"{self.root}/{name}", self.file_system
        if self.url.startswith(("http://", "https://")):
            return bytes(sync(system.loop, _get, system, path, max_bytes, timeout=TIMEOUT_S, **byte_range) or b"")
        if not byte_range and (system.info(path).get("size") or 0) > max_bytes:
            raise TooLargeError(max_bytes)
        if isinstance(system, AsyncFileSystem):
            return bytes(sync(system.loop, system._cat_file, path, timeout=TIMEOUT_S, **byte_range) or b"")
        return bytes(system.cat_file(path, **byte_range))

    def _retry(self, name: str, read: Callable[[], T], stop: threading.Event | None = None) -> T:
        """Return the result of `read`; after errors that may pass, log them and try again."""
        address, stop = f"{self.url}/{name}", stop or threading.Event()

        def log(reason: str, delay_s: float, num_attempts: int) -> None:
            if not stop.is_set():
                LOG.warning(
                    "%s: %s; trying again in %.2g s, attempt %d of %d",
                    address,
                    reason,
                    delay_s,
                    num_attempts + 1,
                    len(RETRY_DELAYS_S) + 1,
                )

        try:
            return retry(
                read,
                errors=(Exception,),
                is_permanent=_is_permanent,
                describe=lambda error: describe_error(error, TIMEOUT_S),
                delays_s=[delay_s * (1 + random.SystemRandom().random() / 2) for delay_s in RETRY_DELAYS_S],
                log=log,
                wait=stop.wait,
            )
        except FailedAttemptsError as failure:
            error = failure.error
            if isinstance(error, FileNotFoundError) and not name.endswith(".tar"):
                raise error from None
            raise RemoteError(f"{address}: {_describe_failure(failure, is_tar=name.endswith('.tar'))}") from error


def _describe_failure(failure: FailedAttemptsError, *, is_tar: bool) -> str:
    """Return why a file cannot be read, and what would help."""
    if isinstance(failure.error, FileNotFoundError):
        return "does not exist; pack it again"
    if failure.is_permanent:
        return f"cannot be read ({failure.reason}){_hint(failure.error)}"
    remedy = (
        "the downloaded part is stored, and the same command continues from it"
        if is_tar
        else "check the URL and its server, and run the same command again"
    )
    return f"cannot be read after {failure.num_attempts} attempts ({failure.reason}); {remedy}"


async def _get(system: Any, path: str, max_bytes: int, *, start: int = 0, end: int | None = None) -> bytes:
    """Return bytes `start` to `end` of a file of a web server, as fsspec's `_cat_file` does, but a limited number."""
    options = {**system.kwargs}
    if end is not None:
        options["headers"] = {**options.get("headers", {}), "Range": f"bytes={start}-{end - 1}"}
    session = await system.set_session()
    content = bytearray()
    async with session.get(system.encode_url(path), **options) as response:
        if response.status == 404:
            raise FileNotFoundError(path)
        response.raise_for_status()
        async for block in response.content.iter_chunked(1 << 20):
            content += block
            if len(content) > max_bytes:
                raise TooLargeError(max_bytes)
    return bytes(content)


def _is_permanent(error: Exception) -> bool:
    """Return whether another attempt would fail as well."""
    status: Any = getattr(error, "status", None)
    if isinstance(status, int):
        return is_refusal(status)
    return isinstance(error, PERMANENT_ERRORS)


def _hint(error: Exception) -> str:
    """Return what helps if access is denied; for other errors nothing."""
    denied = isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)
    return f"; check that you may read it; {CREDENTIALS}" if denied else ""


def _sha256_of(path: Path) -> Any:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest
