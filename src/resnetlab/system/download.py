"""Downloads over HTTP: resumed, checked by checksum, atomic, and done by one process at a time."""

import hashlib
import http.client
import logging
import os
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from resnetlab.system.retry import FailedAttemptsError, describe_error, is_refusal, retry

LOG = logging.getLogger(__name__)
"""Logs each retry; without a logging configuration it goes to stderr."""
BLOCK_BYTES = 1 << 18
TIMEOUT_S = 30.0
"""Seconds without data after which a connection counts as lost."""
RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between attempts. Attempts count from the start again after data have arrived."""
MIN_PREFIX = 8
"""Fewest hex digits of a checksum that identify a file; publishers append this many to file names."""

Algorithm = Literal["sha256", "md5"]
"""The checksums that publishers give; MD5 detects damage, not an attack."""
TITLES: dict[Algorithm, str] = {"sha256": "SHA-256", "md5": "MD5"}

OnProgress = Callable[[int, int | None], None]
"""Receives the bytes that are on the disk, and the size of the file if the server tells it."""


class DownloadError(RuntimeError):
    """A file cannot be downloaded or stored; the message names the file, its address, the reason and a remedy."""


class CacheError(DownloadError):
    """The folder of a download cannot be written."""


class HashError(DownloadError):
    """A file was downloaded completely and is not the published one; nothing of it is kept."""


@dataclass(frozen=True)
class RemoteFile:
    """The address and the checksum of a published file."""

    url: str
    """Its address, with http or https."""
    digest: str
    """Checksum in hex: all digits, or the first ones (at least eight) where the publisher gives no more."""
    algorithm: Algorithm = "sha256"
    """Algorithm of the checksum."""

    def __post_init__(self) -> None:
        num_digits = 2 * hashlib.new(self.algorithm, usedforsecurity=False).digest_size
        assert re.fullmatch(rf"[0-9a-f]{{{MIN_PREFIX},{num_digits}}}", self.digest), self.digest

    def is_at(self, path: Path) -> bool:
        """Return whether this file is at `path`, by its checksum; false if there is none."""
        try:
            return file_digest(path, self.algorithm).startswith(self.digest)
        except (FileNotFoundError, NotADirectoryError):
            return False


def file_digest(path: Path, algorithm: Algorithm = "sha256") -> str:
    """Return the checksum of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def download(file: RemoteFile, target: Path, on_progress: OnProgress | None = None) -> None:
    """Download a file to `target`, unless the right file is there already.

    The bytes are stored beside `target` in a partial file, which a later call completes. `target` appears when its
    checksum is right. Of several processes one downloads; the others wait for it.

    Raises:
        HashError: if the server sends another file than the published one.
        CacheError: if the folder cannot be written.
        DownloadError: if the file cannot be downloaded.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if file.is_at(target):
                return
            partial = partial_file(target)
            try:
                _complete(file, partial, on_progress or (lambda done, total: None))
            except DownloadError:
                with suppress(OSError):
                    if partial.stat().st_size == 0:
                        partial.unlink()
                raise
            partial.replace(target)
    except OSError as error:  # of the local disk; errors of the network were replaced
        raise CacheError(f"{target}: cannot be written ({error.strerror or error})") from error


def partial_file(target: Path) -> Path:
    """Return the path of the partial file of a download."""
    return target.with_name(f".{target.name}.part")


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the lock of a download; a process that must wait says so."""
    lock = FileLock(target.with_name(f".{target.name}.lock"), thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        LOG.warning("%s: another process downloads it; waiting", target.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _complete(file: RemoteFile, partial: Path, on_progress: OnProgress) -> None:
    """Download what `partial` lacks. A resumed file with a wrong checksum is downloaded once more, from its start.

    Raises:
        DownloadError: if the download fails; the partial file is kept unless its content is wrong or the disk is full.
    """
    while True:
        resumed = partial.exists() and partial.stat().st_size > 0
        _fetch(file, partial, on_progress)
        found, title = file_digest(partial, file.algorithm), TITLES[file.algorithm]
        if found.startswith(file.digest):
            return
        size = partial.stat().st_size
        partial.unlink()
        if not resumed:
            raise HashError(
                f"{file.url}: {size:,} bytes received with {title} {found[:16]}… instead of {file.digest}; this is not "
                "the published file, and nothing of it is kept"
            )
        LOG.warning("%s: the %s of the resumed file is wrong; downloading it again", file.url, title)


def _fetch(file: RemoteFile, partial: Path, on_progress: OnProgress) -> None:
    """Append to `partial` until it is complete; after errors that may pass, try again.

    Raises:
        DownloadError: if the server refuses, or no attempt succeeds.
        OSError: if the disk fails; if it is full, the partial file is deleted.
    """
    with partial.open("ab") as output:
        try:
            retry(
                lambda: _receive(file.url, output, on_progress),
                errors=(OSError, http.client.HTTPException, ValueError),
                is_permanent=_is_permanent,
                describe=_describe,
                delays_s=RETRY_DELAYS_S,
                log=lambda reason, delay_s, _: LOG.warning("%s: %s; trying again in %g s", file.url, reason, delay_s),
                count_bytes=output.tell,
            )
        except _DiskError as error:
            with suppress(OSError):
                partial.unlink()  # a full disk hurts every other program
            raise error.cause from error
        except FailedAttemptsError as failure:
            times = "" if failure.is_permanent else f" after {failure.num_attempts} attempts"
            raise DownloadError(f"{file.url}: cannot be downloaded{times} ({failure.reason})") from failure.error
        output.flush()
        os.fsync(output.fileno())


class _DiskError(Exception):
    """A failed write to the local disk, as opposed to an error of the network, which is an `OSError` too."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _receive(url: str, output: Any, on_progress: OnProgress) -> None:
    """Request the bytes behind those in `output` and append them.

    A server that ignores the range sends the whole file, which replaces the bytes in `output`.

    Raises:
        _DiskError: if the disk fails.
        OSError: if the network fails, or the connection ends before the file is complete.
    """
    start = output.tell()
    request = urllib.request.Request(url, headers={"User-Agent": "resnetlab", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = _OPENER.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # the partial file is complete, or longer than the file
            return
        raise
    with response:
        if start and not _continues(response, start):
            output.seek(0)
            output.truncate()
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        on_progress(start, total)
        while block := response.read(BLOCK_BYTES):
            try:
                output.write(block)
                output.flush()
            except OSError as error:
                raise _DiskError(error) from error
            on_progress(output.tell(), total)
    if total is not None and output.tell() < total:
        raise http.client.IncompleteRead(b"", total - output.tell())


def _continues(response: Any, start: int) -> bool:
    """Return whether a response holds the bytes from `start` on."""
    byte_range = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status == 206 and byte_range is not None and int(byte_range[1]) == start


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but not from https to an address without encryption."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request for the new address.

        Raises:
            _RedirectError: if it is not encrypted, and the first address is.
        """
        if req.type == "https" and not newurl.startswith("https:"):
            raise _RedirectError(f"its server redirects to {newurl[:200]}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _RedirectError(ValueError):
    """A redirect that is not followed."""


_OPENER = urllib.request.build_opener(_Redirects)


def _is_permanent(error: Exception) -> bool:
    """Return whether another attempt would fail as well: a refusal, or no network."""
    if isinstance(error, urllib.error.HTTPError):
        return is_refusal(error.code)
    cause = _cause(error)
    offline = (socket.gaierror, ConnectionRefusedError, ssl.SSLCertVerificationError)
    unreachable = isinstance(cause, OSError) and cause.errno in (101, 113)  # ENETUNREACH, EHOSTUNREACH
    return isinstance(cause, (ValueError, *offline)) or unreachable


def _describe(error: Exception) -> str:
    cause = _cause(error)
    if isinstance(cause, http.client.HTTPException):
        return "the connection was closed early"
    text = None if isinstance(cause, TimeoutError) else getattr(cause, "strerror", None)
    return " ".join(text.split()) if text else describe_error(cause, TIMEOUT_S)


def _cause(error: Exception) -> Exception:
    """Return the error of the network that urllib wraps."""
    if isinstance(error, urllib.error.HTTPError) or not isinstance(error, urllib.error.URLError):
        return error
    return error.reason if isinstance(error.reason, Exception) else OSError(error.reason)
