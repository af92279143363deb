"""Sequences of names and places that lie in arrays: a few bytes a sample, and an object only while it is looked at."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np

from resnetlab.data.images.storage import ByteRange, Shard

T = TypeVar("T")

TOGETHER = 1 << 14
"""Strings that are looked at together, so that memory stays small."""


class PackedSequence(Sequence[T], Generic[T]):
    """A sequence that makes its items on demand; `take_items` and slices give columns again."""

    def take(self, rows: np.ndarray) -> "PackedSequence[T]":
        """Return the items of some rows, int64, in that order."""
        raise NotImplementedError

    def item(self, row: int) -> T:
        """Return the item of one row, from 0 to below the length."""
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

    __hash__ = None  # type: ignore[assignment]  # as of a list


class PackedStrings(PackedSequence[str]):
    """Strings, in UTF-8 one behind the other."""

    def __init__(self, text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        """Take all bytes (uint8), and where each string begins and ends in them (int64)."""
        self.text, self.starts, self.ends = text, starts, ends

    @classmethod
    def of(cls, strings: Iterable[str]) -> "PackedStrings":
        """Pack some strings, one after the other."""
        text, ends = bytearray(), array("q")
        for string in strings:
            text += string.encode("utf-8", "surrogateescape")
            ends.append(len(text))
        return cls.packed(bytes(text), np.array(ends, np.int64))

    @classmethod
    def packed(cls, text: bytes | np.ndarray, ends: np.ndarray) -> "PackedStrings":
        """Take strings that stand one behind the other without a gap."""
        text = text if isinstance(text, np.ndarray) else np.frombuffer(text, np.uint8)
        return cls(text, np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)], ends)

    def __len__(self) -> int:
        return len(self.ends)

    def item(self, row: int) -> str:
        """Return one string."""
        return self.text[self.starts[row] : self.ends[row]].tobytes().decode("utf-8", "surrogateescape")

    def take(self, rows: np.ndarray) -> "PackedStrings":
        """Return some of them; the bytes are shared."""
        return PackedStrings(self.text, self.starts[rows], self.ends[rows])

    def sortable(self) -> np.ndarray:
        """Return an array that sorts as the strings do: UTF-8 keeps the order of characters."""
        lengths = self.ends - self.starts
        longest = int(lengths.max(initial=1))
        padded = np.zeros((len(self), longest), np.uint8)
        for start in range(0, len(self), TOGETHER):
            some = slice(start, start + TOGETHER)
            inside = np.arange(longest) < lengths[some, None]
            padded[some][inside] = self.text[(self.starts[some, None] + np.arange(longest))[inside]]
        return padded.view(f"S{longest}")[:, 0]


class PackedPaths(PackedSequence[Path]):
    """Files below one folder."""

    def __init__(self, root: Path, names: PackedStrings) -> None:
        """Take the folder, and the files' paths below it."""
        self.root, self.names = root, names

    @classmethod
    def of(cls, root: Path, paths: Iterable[Path]) -> "PackedPaths":
        """Take some files below `root`."""
        return cls(root, PackedStrings.of(str(path.relative_to(root)) for path in paths))

    def __len__(self) -> int:
        return len(self.names)

    def item(self, row: int) -> Path:
        """Return one path."""
        return self.root / self.names.item(row)

    def take(self, rows: np.ndarray) -> "PackedPaths":
        """Return some of them."""
        return PackedPaths(self.root, self.names.take(rows))


class PackedByteRanges(PackedSequence[ByteRange]):
    """Pieces of shards."""

    def __init__(self, shards: Sequence[Shard], which: np.ndarray, offsets: np.ndarray, lengths: np.ndarray) -> None:
        """Take the shards, and of each piece the number of its shard, its offset and its length in bytes."""
        self.shards, self.which, self.offsets, self.lengths = shards, which, offsets, lengths

    def __len__(self) -> int:
        return len(self.which)

    def item(self, row: int) -> ByteRange:
        """Return one piece."""
        return ByteRange(self.shards[self.which[row]], int(self.offsets[row]), int(self.lengths[row]))

    def take(self, rows: np.ndarray) -> "PackedByteRanges":
        """Return some of them; the shards are shared."""
        return PackedByteRanges(self.shards, self.which[rows], self.offsets[rows], self.lengths[rows])

    def ahead(self, rows: np.ndarray) -> AbstractContextManager[None]:
        """Have shards brought here before they are read, while the context lasts, in the order of `rows`."""
        used, first = np.unique(self.which[rows], return_index=True)
        coming = [self.shards[number] for number in used[np.argsort(first)]]
        return coming[0].bring(coming) if coming else nullcontext()


def take_items(items: Sequence[T], rows: np.ndarray) -> Sequence[T]:
    """Return some items of a sequence, in the order of `rows`: of a column a column, else a tuple."""
    return items.take(rows) if isinstance(items, PackedSequence) else tuple(items[row] for row in rows.tolist())


def concatenate(parts: Sequence[Sequence[T]]) -> Sequence[T]:
    """Put sequences together, in their order: of columns of one kind a column, else a tuple."""
    if len(parts) == 1:
        return parts[0]
    if parts and all(isinstance(part, PackedStrings) for part in parts):
        return _join_texts(parts)  # type: ignore[return-value]
    if parts and all(isinstance(part, PackedPaths) and part.root == parts[0].root for part in parts):  # type: ignore[attr-defined]
        return PackedPaths(parts[0].root, _join_texts([part.names for part in parts]))  # type: ignore[attr-defined,return-value]
    if parts and all(isinstance(part, PackedByteRanges) for part in parts):
        return _join_pieces(parts)  # type: ignore[return-value]
    return tuple(chain.from_iterable(parts))


def _join_texts(parts: Sequence[Any]) -> PackedStrings:
    texts = list({id(part.text): part.text for part in parts}.values())
    starts_of = dict(zip(map(id, texts), np.cumsum([0, *map(len, texts)]).tolist(), strict=False))
    text = texts[0] if len(texts) == 1 else np.concatenate(texts)
    shifts = [starts_of[id(part.text)] for part in parts]
    starts = np.concatenate([part.starts + shift for part, shift in zip(parts, shifts, strict=True)])
    ends = np.concatenate([part.ends + shift for part, shift in zip(parts, shifts, strict=True)])
    return PackedStrings(text, starts, ends)


def _join_pieces(parts: Sequence[Any]) -> PackedByteRanges:
    number: dict[Shard, int] = {}
    which = []
    for part in parts:
        own = np.array([number.setdefault(shard, len(number)) for shard in part.shards], np.int64)
        which.append(own[part.which])
    offsets, lengths = (np.concatenate([getattr(part, name) for part in parts]) for name in ("offsets", "lengths"))
    return PackedByteRanges(tuple(number), np.concatenate(which), offsets, lengths)
