"""The append-only record of a run: one JSON object a line, each with a `kind`."""

import errno
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

KINDS = ("run", "epoch", "signal", "warning", "result")


class RecordError(ValueError):
    """A damaged record; the message names the file and the line."""


class Record:
    """Append lines to a run's record, each whole or not at all.

    Where the disk is full, lines wait in memory and are tried again with the next one; `problem` says so meanwhile.
    `path=None` keeps nothing: for a run that leaves no files.
    """

    def __init__(self, path: Path | None, *, keep_bytes: int | None = None) -> None:
        """Open or create `path` for appending, after cutting it to its first `keep_bytes` bytes.

        Raises:
            RecordError: where the file is shorter than `keep_bytes`: somebody cut it.
            OSError: where it cannot be opened.
        """
        self._file = None if path is None else path.open("ab", buffering=0)
        self._waiting = b""
        self.problem: str | None = None
        self.num_bytes = 0
        """Length of the file, in bytes."""
        if self._file is None:
            return
        self.num_bytes = os.fstat(self._file.fileno()).st_size
        if keep_bytes is not None:
            if self.num_bytes < keep_bytes:
                self._file.close()
                raise RecordError(f"{path}: has {self.num_bytes} bytes, and the checkpoint expects {keep_bytes}")
            os.ftruncate(self._file.fileno(), keep_bytes)
            self.num_bytes = keep_bytes

    def write(self, kind: str, /, **values: Any) -> None:
        """Append one line; numbers that are not finite become `null`."""
        if kind not in KINDS:
            raise ValueError(f"record kind {kind!r} is unknown; known: {', '.join(KINDS)}")
        if self._file is None:
            return
        line = json.dumps({"kind": kind, **replace_non_finite(values)}, ensure_ascii=False, allow_nan=False)
        self._waiting += line.encode() + b"\n"
        with suppress(OSError):
            self.flush(sync=kind in ("run", "result"))

    def flush(self, *, sync: bool = False) -> None:
        """Write every line to the file, and with `sync` to the disk.

        Raises:
            OSError: where that fails; the file ends with a whole line, the others wait.
        """
        if self._file is None:
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
    """Read every line of a record.

    A last line without its line end was cut off by a kill and is left out: the run is unfinished, not damaged.

    Raises:
        RecordError: for a line that is no JSON object with a known kind; the message names file and line.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
    return [_parse(path, number, line) for number, line in enumerate(lines, start=1)]


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise RecordError(f"{path}, line {number}: not JSON ({error})") from error
    if not isinstance(entry, dict) or entry.get("kind") not in KINDS:
        raise RecordError(f"{path}, line {number}: not an object with a kind among {', '.join(KINDS)}")
    return entry


def replace_non_finite(value: Any) -> Any:
    """Return JSON values with `None` in place of numbers that are not finite, which JSON cannot represent."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(item) for item in value]
    return value
