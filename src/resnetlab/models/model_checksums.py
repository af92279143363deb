"""The checksums of a model file: SHA-256 of its weights and of its card, in the safetensors metadata.

It detects damage and edits; it does not prevent forgery. `docs/formats.md` describes what each checksum covers.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

CHECKSUMS_KEY = "resnetlab_seal"
"""Key of the checksums in the metadata."""
CARD = "resnetlab"
"""Key of the model card in the metadata."""
PARTS = ("weights", "card")
CHUNK_BYTES = 1 << 20
LENGTH_BYTES = 8
"""A safetensors file starts with the length of its header, little-endian."""
_CHECKSUMS_TEXT = re.compile(r'\{"card": "([0-9a-f]{64})", "weights": "([0-9a-f]{64})"\}')


def add_checksums(data: bytes) -> bytes:
    """Return the content of a safetensors file with its checksums; for the same content, the same bytes.

    Args:
        data: A file with metadata and without checksums, as `safetensors` writes it.
    """
    header, start = _parse_header(data)
    metadata = header.pop("__metadata__")
    checksums = {"card": card_sha256(metadata), "weights": _sha256_of_tensors(header, _Slices(data, start))}
    checked = {"__metadata__": dict(sorted({**metadata, CHECKSUMS_KEY: json.dumps(checksums)}.items())), **header}
    text = json.dumps(checked, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)  # tensors start at a multiple of 8 bytes
    return b"".join((len(text).to_bytes(LENGTH_BYTES, "little"), text, memoryview(data)[start:]))


def has_checksums(metadata: Mapping[str, str]) -> bool:
    """Return whether a file was written with checksums. If their key is damaged, their value still shows it."""
    return CHECKSUMS_KEY in metadata or any(_CHECKSUMS_TEXT.fullmatch(value) for value in metadata.values())


def changed_parts(metadata: Mapping[str, str], path: Path | None = None) -> tuple[str, ...]:
    """Return which of `weights` and `card` differ from their checksums; none for a file without any.

    Args:
        metadata: The metadata of the file.
        path: The file, a valid safetensors file; `None` checks only the card, which reads no tensor.

    Raises:
        OSError: If the file cannot be read.
    """
    if not has_checksums(metadata):
        return ()
    stored = _CHECKSUMS_TEXT.fullmatch(metadata.get(CHECKSUMS_KEY, ""))
    if stored is None:
        return ("checksums",)
    changed = [] if path is None or _sha256_of_file(path) == stored[2] else ["weights"]
    return (*changed, *(["card"] if card_sha256(metadata) != stored[1] else []))


def card_sha256(metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of all metadata but the checksums, in hex."""
    values = sorted((key, value) for key, value in metadata.items() if key != CHECKSUMS_KEY)
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        start = LENGTH_BYTES + int.from_bytes(file.read(LENGTH_BYTES), "little")
        file.seek(0)
        header, _ = _parse_header(file.read(start))
        header.pop("__metadata__", None)
        return _sha256_of_tensors(header, _Chunks(file, start))


def _sha256_of_tensors(header: Mapping[str, Any], chunks: "_Chunks | _Slices") -> str:
    """Return the SHA-256 of all tensors in the order of their names: name, type and shape, then the bytes of each."""
    digest = hashlib.sha256()
    for name in sorted(header):
        entry = header[name]
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        for chunk in chunks.between(*entry["data_offsets"]):
            digest.update(chunk)
    return digest.hexdigest()


def _parse_header(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file and the position of the first tensor."""
    start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    return json.loads(data[LENGTH_BYTES:start]), start


class _Slices:
    """The tensors of a file in memory."""

    def __init__(self, data: bytes, start: int) -> None:
        self._view = memoryview(data)[start:]

    def between(self, first: int, last: int) -> Iterator[memoryview]:
        yield self._view[first:last]


class _Chunks:
    """The tensors of an open file, read piece by piece."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file, self._start, self._buffer = file, start, memoryview(bytearray(CHUNK_BYTES))

    def between(self, first: int, last: int) -> Iterator[memoryview]:
        self._file.seek(self._start + first)
        left = last - first
        while left > 0:
            count = self._file.readinto(self._buffer[: min(left, CHUNK_BYTES)])  # type: ignore[attr-defined]
            if not count:
                return
            left -= count
            yield self._buffer[:count]
