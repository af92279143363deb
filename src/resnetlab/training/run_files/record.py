"""The append-only record of a run: one JSON object a line, each with a `kind` and a checksum."""

import errno
import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from resnetlab.serialization import replace_non_finite
from resnetlab.training.run_files.record_chain import (
    AGAIN,
    KINDS,
    RecordContent,
    RecordError,
    add_checksum,
    parse_record,
)

__all__ = ["KINDS", "Record", "RecordContent", "RecordError", "read_record", "read_record_content"]


class Record:
    """Append lines to a run's record, each whole or not at all.

    Where the disk is full, lines wait in memory and are tried again with the next one; `problem` says so meanwhile.
    `path=None` keeps nothing: for a run that leaves no files.
    """

    def __init__(self, path: Path | None, *, keep_bytes: int | None = None, hold: bool = False) -> None:
        """Open or create `path` for appending, after cutting it to its first `keep_bytes` bytes.

        Without `keep_bytes`, only an incomplete last line is cut off. With `hold`, the file stays as it is until
        `release`: lines wait, and are dropped if it is closed before.

        Raises:
            RecordError: where the file is shorter than `keep_bytes`, or the lines that stay are damaged.
            OSError: where it cannot be opened.
        """
        self._file = None if path is None else path.open("ab", buffering=0)
        self._waiting = b""
        self._is_held = hold
        self._checksum = ""
        self.problem: str | None = None
        self.num_bytes = 0
        """Length of the file, in bytes."""
        if self._file is None or path is None:
            return
        try:
            self._continue(path, keep_bytes)
        except BaseException:
            self._file.close()
            raise

    def _continue(self, path: Path, keep_bytes: int | None) -> None:
        """Check the lines that stay, and cut off the others unless the file is held."""
        assert self._file is not None
        data = _read(path)
        if keep_bytes is not None and len(data) < keep_bytes:
            raise RecordError(f"{path}: has {len(data):,} bytes, and the checkpoint expects {keep_bytes}; {AGAIN}")
        content = parse_record(data[:keep_bytes], path)
        if keep_bytes is not None and content.num_cut_bytes:
            raise RecordError(f"{path}: has no line end at byte {keep_bytes}, and the checkpoint expects one; {AGAIN}")
        self._checksum = content.checksum
        self.num_bytes = len(data[:keep_bytes]) - content.num_cut_bytes
        if not self._is_held:
            os.ftruncate(self._file.fileno(), self.num_bytes)

    def release(self) -> None:
        """Cut a held file, and write the lines that wait; does nothing to one that is not held."""
        if self._is_held and self._file is not None:
            self._is_held = False
            os.ftruncate(self._file.fileno(), self.num_bytes)
            with suppress(OSError):
                self.flush()

    def write(self, kind: str, /, **values: Any) -> None:
        """Append one line; numbers that are not finite become `null`."""
        if kind not in KINDS:
            raise ValueError(f"record kind {kind!r} is unknown; known: {', '.join(KINDS)}")
        if self._file is None:
            return
        content = {"kind": kind, **replace_non_finite(values)}
        try:
            line = json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:  # a path that is not UTF-8
            line = json.dumps(content, allow_nan=False).encode()
        checked, self._checksum = add_checksum(line, self._checksum)
        self._waiting += checked + b"\n"
        with suppress(OSError):
            self.flush(sync=kind in ("run", "result"))

    def flush(self, *, sync: bool = False) -> None:
        """Write every line to the file, and with `sync` to the disk.

        Raises:
            OSError: where that fails; the file ends with a whole line, the others wait.
        """
        if self._file is None or self._is_held:
            return
        try:
            if self._waiting:
                written = self._file.write(self._waiting)
                if written != len(self._waiting):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self.num_bytes += written
                self._waiting = b""
            if sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            os.ftruncate(self._file.fileno(), self.num_bytes)
            self.problem = error.strerror
            raise
        self.problem = None

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


def read_record(path: Path) -> list[dict[str, Any]]:
    """Return every line of a record, without checksums.

    A last line without its line end was cut off by a kill and is left out: the run is unfinished, not damaged.

    Raises:
        RecordError: for a line that is no JSON object with a known kind, or that was changed, removed or moved since it
            was written; the message names file and line.
    """
    return read_record_content(path).lines


def read_record_content(path: Path) -> RecordContent:
    """Return every line of a record, and whether it has checksums and a whole last line.

    Raises:
        RecordError: as `read_record`.
    """
    return parse_record(_read(path), path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
