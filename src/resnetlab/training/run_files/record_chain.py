"""The checksums of a record: each line's covers the line and, through the checksum before it, all earlier lines.

A changed digit, a removed line and two swapped lines are noticed, at the first line whose checksum differs. The end of
a record has no line behind it: `record_notes` compares it with the checkpoint and the model file.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("run", "epoch", "signal", "warning", "result")
CHECKSUM_KEY = "seal"
"""Key of a line's checksum, the first of the line."""
DIGITS = 16
"""Hexadecimal digits of a checksum: the first 64 bits of a SHA-256."""
CHECKSUM_VALUE = re.compile(rf"[0-9a-f]{{{DIGITS}}}")
_LINE_WITH_CHECKSUM = re.compile(rf'\{{"{CHECKSUM_KEY}": "([0-9a-f]{{{DIGITS}}})", '.encode())
AGAIN = "copy the record again from its source, or start the run over with --fresh"


class RecordError(ValueError):
    """A damaged record; the message names the file and the line."""


@dataclass(frozen=True)
class RecordContent:
    """The content of a record, and what its checksums say."""

    lines: list[dict[str, Any]]
    """The lines in order, without their checksums."""
    has_checksums: bool
    """Whether every line has a checksum. Lines of older versions have none."""
    num_cut_bytes: int
    """Length of an incomplete last line, which is left out: a kill or a copy cut it off."""
    checksum: str
    """Checksum of the last line, with which the next one continues."""


def add_checksum(line: bytes, before: str) -> tuple[bytes, str]:
    """Return a JSON object with its checksum in front, and that checksum.

    Args:
        line: The object, one key at least.
        before: The checksum of the line before; empty for the first.
    """
    checksum = _checksum(line, before)
    return f'{{"{CHECKSUM_KEY}": "{checksum}", '.encode() + line[1:], checksum


def parse_record(data: bytes, path: Path) -> RecordContent:
    """Parse and check a record; errors name `path`.

    Raises:
        RecordError: for a line that is no JSON object with a known kind, or differs from its checksum.
    """
    *whole, last = data.split(b"\n")
    lines, checksum, num_with_checksum = [], "", 0
    for number, line in enumerate(whole, start=1):
        entry = _parse_line(path, number, line)
        found = _LINE_WITH_CHECKSUM.match(line)
        content = b"{" + line[found.end() :] if found else line
        checksum = _checksum(content, checksum)
        if found and found[1].decode() != checksum:
            raise RecordError(
                f"{path}, line {number}: not as written (its checksum differs): it was changed, or lines before it "
                f"were removed or moved; {AGAIN}"
            )
        if not found and (num_with_checksum or _is_damaged_checksum(entry)):
            raise RecordError(f"{path}, line {number}: not as written (it has no checksum); {AGAIN}")
        num_with_checksum += found is not None
        lines.append({key: value for key, value in entry.items() if key != CHECKSUM_KEY})
    if last and _is_whole(last):
        raise RecordError(f"{path}, line {len(whole) + 1}: not as written (its line end was changed); {AGAIN}")
    return RecordContent(lines, num_with_checksum == len(lines), len(last), checksum)


def record_notes(directory: Path, content: RecordContent) -> tuple[str, ...]:
    """Return what a reader should know about a run's record: that its end is missing, or that it has no checksums."""
    notes = []
    has_result = any(line["kind"] == "result" for line in content.lines)
    if content.num_cut_bytes:
        notes.append(
            f"record.jsonl is cut: it ends in an incomplete line of {content.num_cut_bytes:,} bytes, which is left "
            "out; the run was killed, or its folder copied while it ran"
        )
    elif not has_result and (directory / "model.safetensors").exists():
        notes.append("record.jsonl is cut: the run wrote its model file, and the record has no result line")
    expected, found = _expected_bytes(directory), _size(directory / "record.jsonl")
    if expected > found:
        notes.append(f"record.jsonl is cut: it has {found:,} bytes, and the checkpoint expects {expected:,}")
    if content.lines and not content.has_checksums:
        notes.append("record.jsonl has no checksums: an older version wrote it")
    return tuple(notes)


def _checksum(line: bytes, before: str) -> str:
    return hashlib.sha256(before.encode() + line).hexdigest()[:DIGITS]


def _parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}, line {number}: not JSON ({error})") from error
    if not isinstance(entry, dict) or entry.get("kind") not in KINDS:
        raise RecordError(f"{path}, line {number}: not an object with a kind among {', '.join(KINDS)}")
    return entry


def _is_damaged_checksum(entry: dict[str, Any]) -> bool:
    """Return whether a line has the key or the value of a checksum: a single changed bit leaves one of them."""
    key, value = next(iter(entry.items()))
    return CHECKSUM_KEY in entry or (
        key != "kind" and isinstance(value, str) and CHECKSUM_VALUE.fullmatch(value) is not None
    )


def _is_whole(last: bytes) -> bool:
    """Return whether a last line without line end is a whole line and one more byte: its line end was changed."""
    return last[-2:-1] == b"}" and _is_json(last[:-1])


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _expected_bytes(directory: Path) -> int:
    """Return how long the record was at the newest checkpoint, in bytes; 0 if that is unknown."""
    lengths = [0]
    for path in directory.glob("checkpoint/save-*/state.json"):
        try:
            length = json.loads(path.read_bytes())["record_bytes"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # loading the checkpoint says so
        lengths += [length] if isinstance(length, int) else []
    return max(lengths)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
