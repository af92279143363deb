"""The seal of a model file: SHA-256 of its weights and of its card, in the safetensors metadata.

It detects damage and edits; it does not prevent forgery. `docs/formats.md` describes what each checksum covers.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

SEAL = "resnetlab_seal"
"""Key of the seal in the metadata."""
CARD = "resnetlab"
"""Key of the model card in the metadata."""
PARTS = ("weights", "card")
CHUNK_BYTES = 1 << 20
LENGTH_BYTES = 8
"""A safetensors file starts with the length of its header, little-endian."""
_SEAL_TEXT = re.compile(r'\{"card": "([0-9a-f]{64})", "weights": "([0-9a-f]{64})"\}')


def add_seal(data: bytes) -> bytes:
    """Return the content of a safetensors file with its seal; for the same content, the same bytes.

    Args:
        data: A file with metadata and without a seal, as `safetensors` writes it.
    """
    header, start = _parse_header(data)
    metadata = header.pop("__metadata__")
    checksums = {"card": card_sha256(metadata), "weights": _sha256_of_tensors(header, _Slices(data, start))}
    sealed = {"__metadata__": dict(sorted({**metadata, SEAL: json.dumps(checksums)}.items())), **header}
    text = json.dumps(sealed, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)  # tensors start at a multiple of 8 bytes
    return b"".join((len(text).to_bytes(LENGTH_BYTES, "little"), text, memoryview(data)[start:]))


def is_sealed(metadata: Mapping[str, str]) -> bool:
    """Return whether a file was written with a seal. If the key of the seal is damaged, its value still shows it."""
    return SEAL in metadata or any(_SEAL_TEXT.fullmatch(value) for value in metadata.values())


def changed_parts(metadata: Mapping[str, str], path: Path | None = None) -> tuple[str, ...]:
    """Return which of `weights` and `card` differ from the seal; none for a file without a seal.

    Args:
        metadata: The metadata of the file.
        path: The file, a valid safetensors file; `None` checks only the card, which reads no tensor.

    Raises:
        OSError: If the file cannot be read.
    """
    if not is_sealed(metadata):
        return ()
    seal = _SEAL_TEXT.fullmatch(metadata.get(SEAL, ""))
    if seal is None:
        return ("seal",)
    changed = [] if path is None or _sha256_of_file(path) == seal[2] else ["weights"]
    return (*changed, *(["card"] if card_sha256(metadata) != seal[1] else []))


def card_sha256(metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of all metadata but the seal, in hex."""
    values = sorted((key, value) for key, value in metadata.items() if key != SEAL)
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
