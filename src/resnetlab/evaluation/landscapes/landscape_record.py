"""The measured points of a landscape in a file of JSON lines, so that a killed measurement continues.

The first line says what is measured; each further line is one point. A last line without its line end was cut off by a
kill and is measured again.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from resnetlab.config import ConfigError
from resnetlab.evaluation.landscapes.landscape import Point

VERSION = 1
"""Version of the format; a file of another version is refused."""


class LandscapeRecord:
    """A file of measured points, open for appending."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Open a file, or create it with a header; a file that a kill cut off is continued.

        Args:
            path: The file.
            header: What is measured, as JSON values: a file with another header is refused.

        Raises:
            ConfigError: if the file belongs to another measurement, or a line is damaged.
            OSError: if the file cannot be written.
        """
        expected: dict[str, Any] = json.loads(json.dumps({"version": VERSION, **header}))
        self.points: dict[tuple[int, int], Point] = {}
        """The measured points by (column, row)."""
        self._file = path.open("ab", buffering=0)
        try:
            self._read(path, expected)
        except BaseException:
            self._file.close()
            raise

    def _read(self, path: Path, header: dict[str, Any]) -> None:
        content = path.read_bytes()
        *lines, cut_off = content.split(b"\n")
        if not lines and _line(header).startswith(cut_off):  # empty, or a header that was cut off
            os.ftruncate(self._file.fileno(), 0)
            self._append(header)
            return
        try:
            stored = json.loads(lines[0]) if lines else None
        except ValueError:
            stored = None
        if not isinstance(stored, dict):
            raise ConfigError(f"{path}, line 1: no header of a landscape; delete the file, or choose another --out")
        changed = [name for name in {**header, **stored} if header.get(name) != stored.get(name)]
        if changed:
            name = changed[0]
            raise ConfigError(
                f"{path} holds another landscape: its {name.replace('_', ' ')} is {stored.get(name)}, not "
                f"{header.get(name)}; choose another --out, or delete the file"
            )
        for number, line in enumerate(lines[1:], start=2):
            try:
                values = json.loads(line)
                point = Point(
                    int(values["column"]), int(values["row"]), _number(values["loss"]), float(values["error_pct"])
                )
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{path}, line {number}: no point of a landscape; delete the file") from error
            self.points[point.column, point.row] = point
        os.ftruncate(self._file.fileno(), len(content) - len(cut_off))  # only now: the file is no other program's

    def add(self, point: Point) -> None:
        """Append one point; a loss that is not finite becomes `null`."""
        loss = point.loss if math.isfinite(point.loss) else None
        self._append({"column": point.column, "row": point.row, "loss": loss, "error_pct": point.error_pct})
        self.points[point.column, point.row] = point

    def _append(self, values: Mapping[str, Any]) -> None:
        self._file.write(_line(values))

    def __enter__(self) -> "LandscapeRecord":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def stored_header(path: Path) -> dict[str, Any] | None:
    """Return the header of a file of points; `None` if there is no file or it has no whole first line."""
    try:
        first, end, _ = path.read_bytes().partition(b"\n")
        header = json.loads(first) if end else None
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) else None


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
