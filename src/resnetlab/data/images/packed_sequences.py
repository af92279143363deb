"""Sequences of strings, paths and byte ranges that are stored in arrays.

They need a few bytes a sample, because an item becomes an object only when it is accessed.
"""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np

from resnetlab.data.images.storage import ByteRange, Shard

T = TypeVar("T")

CHUNK = 1 << 14
"""Number of strings that are processed together, which bounds memory."""


class PackedSequence(Sequence[T], Generic[T]):
    """A sequence that creates its items on access; `take` and slices return packed sequences."""

    def take(self, rows: np.ndarray) -> "PackedSequence[T]":
        """Return the items of the given rows, int64, in that order."""
        raise NotImplementedError

    def item(self, row: int) -> T:
        """Return the item of one row, which must be at least 0 and below the length."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> "PackedSequence[T]": ...
    def __getitem__(self, index: int | slice) -> "T | PackedSequence[T]":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.item(index % len(self))

    def __iter__(self) -> Iterator[T]:
        return (self.item(row) for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # like a list


class PackedStrings(PackedSequence[str]):
    """Strings in one UTF-8 buffer."""

    def __init__(self, text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        """Create the sequence from a buffer (uint8) and the offsets where each string starts and ends (int64)."""
        self.text, self.starts, self.ends = text, starts, ends

    @classmethod
    def from_strings(cls, strings: Iterable[str]) -> "PackedStrings":
        """Pack strings into one buffer."""
        text, ends = bytearray(), array("q")
        for string in strings:
            text += string.encode("utf-8", "surrogateescape")
            ends.append(len(text))
        return cls.from_buffer(bytes(text), np.array(ends, np.int64))

    @classmethod
    def from_buffer(cls, text: bytes | np.ndarray, ends: np.ndarray) -> "PackedStrings":
        """Create the sequence from a buffer of strings without gaps and the offset where each of them ends."""
        text = text if isinstance(text, np.ndarray) else np.frombuffer(text, np.uint8)
        return cls(text, np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)], ends)

    def __len__(self) -> int:
        return len(self.ends)

    def item(self, row: int) -> str:
        """Return one string."""
        return self.text[self.starts[row] : self.ends[row]].tobytes().decode("utf-8", "surrogateescape")

    def take(self, rows: np.ndarray) -> "PackedStrings":
        """Return the strings of the given rows; the buffer is shared."""
        return PackedStrings(self.text, self.starts[rows], self.ends[rows])

    def sortable(self) -> np.ndarray:
        """Return an array of bytes that sorts like the strings: UTF-8 preserves the order of code points."""
        lengths = self.ends - self.starts
        longest = int(lengths.max(initial=1))
        padded = np.zeros((len(self), longest), np.uint8)
        for start in range(0, len(self), CHUNK):
            rows = slice(start, start + CHUNK)
            inside = np.arange(longest) < lengths[rows, None]
            padded[rows][inside] = self.text[(self.starts[rows, None] + np.arange(longest))[inside]]
        return padded.view(f"S{longest}")[:, 0]


class PackedPaths(PackedSequence[Path]):
    """Paths below one folder."""

    def __init__(self, root: Path, names: PackedStrings) -> None:
        """Create the sequence from the folder and the paths relative to it."""
        self.root, self.names = root, names

    @classmethod
    def from_paths(cls, root: Path, paths: Iterable[Path]) -> "PackedPaths":
        """Pack paths below `root`."""
        return cls(root, PackedStrings.from_strings(str(path.relative_to(root)) for path in paths))

    def __len__(self) -> int:
        return len(self.names)

    def item(self, row: int) -> Path:
        """Return one path; with a file system encoding other than UTF-8 (C locale), in that encoding."""
        name = self.names.item(row)
        return self.root / (name if name.isascii() else os.fsdecode(name.encode("utf-8", "surrogateescape")))

    def take(self, rows: np.ndarray) -> "PackedPaths":
        """Return the paths of the given rows."""
        return PackedPaths(self.root, self.names.take(rows))


class PackedByteRanges(PackedSequence[ByteRange]):
    """Byte ranges of shards."""

    def __init__(
        self,
        shards: Sequence[Shard],
        shard_index: np.ndarray,
        *,
        offsets: np.ndarray,
        lengths: np.ndarray,
    ) -> None:
        """Create the sequence from the shards and, for each range, the index of its shard, its offset and its length.

        Offsets and lengths are in bytes.
        """
        self.shards, self.shard_index, self.offsets, self.lengths = shards, shard_index, offsets, lengths

    def __len__(self) -> int:
        return len(self.shard_index)

    def item(self, row: int) -> ByteRange:
        """Return one byte range."""
        return ByteRange(self.shards[self.shard_index[row]], int(self.offsets[row]), int(self.lengths[row]))

    def take(self, rows: np.ndarray) -> "PackedByteRanges":
        """Return the byte ranges of the given rows; the shards are shared."""
        return PackedByteRanges(
            self.shards,
            self.shard_index[rows],
            offsets=self.offsets[rows],
            lengths=self.lengths[rows],
        )

    def used_shards(self) -> set[Shard]:
        """Return the shards that hold at least one of the byte ranges."""
        return {self.shards[index] for index in np.unique(self.shard_index).tolist()}

    def prefetch(self, rows: np.ndarray) -> AbstractContextManager[None]:
        """Download the shards of the given rows in the order of first use, while the context is active."""
        used, first = np.unique(self.shard_index[rows], return_index=True)
        shards = [self.shards[index] for index in used[np.argsort(first)]]
        return shards[0].prefetch(shards) if shards else nullcontext()


def take_items(items: Sequence[T], rows: np.ndarray) -> Sequence[T]:
    """Return the items of the given rows, in that order: packed if `items` is packed, else a tuple."""
    return items.take(rows) if isinstance(items, PackedSequence) else tuple(items[row] for row in rows.tolist())


def concatenate(parts: Sequence[Sequence[T]]) -> Sequence[T]:
    """Concatenate sequences: packed if all of them are packed sequences of one kind, else a tuple."""
    if len(parts) == 1:
        return parts[0]
    packed: Sequence[Any] = parts
    joined: Any = None
    if parts and all(isinstance(part, PackedStrings) for part in packed):
        joined = _concatenate_strings(packed)
    elif parts and all(isinstance(part, PackedPaths) and part.root == packed[0].root for part in packed):
        joined = PackedPaths(packed[0].root, _concatenate_strings([part.names for part in packed]))
    elif parts and all(isinstance(part, PackedByteRanges) for part in packed):
        joined = _concatenate_ranges(packed)
    return tuple(chain.from_iterable(parts)) if joined is None else joined


def _concatenate_strings(parts: Sequence[Any]) -> PackedStrings:
    """Concatenate packed strings; a buffer that several parts share is copied once, or not at all."""
    texts = list({id(part.text): part.text for part in parts}.values())
    starts_of = dict(zip(map(id, texts), np.cumsum([0, *map(len, texts)]).tolist(), strict=False))
    text = texts[0] if len(texts) == 1 else np.concatenate(texts)
    shifts = [starts_of[id(part.text)] for part in parts]
    starts = np.concatenate([part.starts + shift for part, shift in zip(parts, shifts, strict=True)])
    ends = np.concatenate([part.ends + shift for part, shift in zip(parts, shifts, strict=True)])
    return PackedStrings(text, starts, ends)


def _concatenate_ranges(parts: Sequence[Any]) -> PackedByteRanges:
    """Concatenate packed byte ranges; equal shards are stored once."""
    index_of: dict[Shard, int] = {}
    shard_index = []
    for part in parts:
        new_index = np.array([index_of.setdefault(shard, len(index_of)) for shard in part.shards], np.int64)
        shard_index.append(new_index[part.shard_index])
    offsets, lengths = (np.concatenate([getattr(part, name) for part in parts]) for name in ("offsets", "lengths"))
    return PackedByteRanges(tuple(index_of), np.concatenate(shard_index), offsets=offsets, lengths=lengths)
