"""Shards: tar files in WebDataset's naming, an index of each, and one `index.json` that tells them all.

`train-000000.tar` holds `00000017.jpg`, `00000017.cls` (the number of the class) and `00000017.json` (the original
name, the class). `train-000000.npz` says where each image lies in it, and what is known of it, so that none need be
opened to be listed. Nothing in either is unpickled.
"""

import hashlib
import io
import json
import re
import threading
import zipfile
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resnetlab.config import ConfigError
from resnetlab.data.images.packed_sequences import PackedByteRanges, PackedStrings, concatenate
from resnetlab.data.images.storage import LocalShard, Shard
from resnetlab.data.registry import INDEX, DatasetListing, SplitListing, check_classes
from resnetlab.serialization import from_json

FORMAT = "resnetlab shards 1"
SPLITS = ("train", "val", "test", "all")
COLUMNS = ("offset", "length", "label", "height", "width")
SHA256 = re.compile(r"[0-9a-f]{64}")
LARGEST = 1 << 16
"""Side in pixels above which no index is believed."""
PARSING = threading.Lock()
"""Held while NumPy reads headers: it asks `ast`, which in Python 3.11 fails now and then in threads (gh-106905)."""


@dataclass(frozen=True)
class ShardEntry:
    """One shard, as `index.json` knows it."""

    file: str
    """Its name; that of its index differs in the suffix, `.npz`."""
    samples: int
    bytes: int
    sha256: str
    index_sha256: str

    @property
    def index_file(self) -> str:
        """The name of its index."""
        return self.file.removesuffix(".tar") + ".npz"


@dataclass(frozen=True)
class ShardIndex:
    """What `index.json` says."""

    classes: tuple[str, ...]
    splits: Mapping[str, tuple[ShardEntry, ...]]
    left_out: tuple[str, ...] = ()
    """Images that could not be read when it was packed, each as `NAME: REASON`."""
    warnings: tuple[str, ...] = ()
    """What was said of the source."""
    packed: Mapping[str, Any] = field(default_factory=dict)
    """From what, and with which options."""

    def to_json(self) -> str:
        """Return the file's text; the format comes first, so that a glance tells what it is."""
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False, indent=1) + "\n"


@dataclass(frozen=True)
class ShardRows:
    """The samples of one shard: int64 columns of one length, and their original names."""

    offset: np.ndarray
    """Of the image in the tar file, in bytes."""
    length: np.ndarray
    label: np.ndarray
    height: np.ndarray
    """In pixels, as a viewer shows the image."""
    width: np.ndarray
    names: PackedStrings

    def __len__(self) -> int:
        return len(self.offset)


def read_index(text: bytes | str, where: str) -> ShardIndex:
    """Read an `index.json`.

    Raises:
        ConfigError: where it is not one, or of another format; the message begins with `where`.
    """
    try:
        said = json.loads(text)
        found = said.pop("format")
        if found != FORMAT:
            raise ConfigError(f"{where}: its format is {found!r}, and this version reads {FORMAT!r}")
        splits = {
            split: tuple(from_json(ShardEntry, entry) for entry in entries) for split, entries in said["splits"].items()
        }
        index = ShardIndex(
            tuple(map(str, said["classes"])),
            splits,
            tuple(said["left_out"]),
            tuple(said["warnings"]),
            dict(said["packed"]),
        )
    except ConfigError as error:
        raise ConfigError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{where}: not an index of shards ({error}); pack into another folder, or copy it again"
        ) from error
    if not splits or not set(splits) <= set(SPLITS) or ("train" in splits) == ("all" in splits):
        raise ConfigError(f"{where}: its splits are {', '.join(splits) or 'none'}; train, or all, is needed")
    _refuse_twice([entry.file for entries in splits.values() for entry in entries], where)
    _refuse_twice(index.classes, where)
    for entry in (entry for entries in splits.values() for entry in entries):
        if Path(entry.file).name != entry.file or not entry.file.endswith(".tar") or entry.file.startswith("."):
            raise ConfigError(f"{where}: {entry.file!r} is no name of a shard")
        if not (SHA256.fullmatch(entry.sha256) and SHA256.fullmatch(entry.index_sha256)):
            raise ConfigError(f"{where}: {entry.file} has no SHA-256")
        if min(entry.samples, entry.bytes) < 0:
            raise ConfigError(f"{where}: {entry.file} has {entry.samples} samples in {entry.bytes} bytes")
    return index


def _refuse_twice(names: Sequence[str], where: str) -> None:
    often = [name for name, count in Counter(names).items() if count > 1]
    if often:
        raise ConfigError(f"{where}: {often[0]!r} is listed twice")


def pack_rows(rows: ShardRows, **more: np.ndarray) -> bytes:
    """Return the content of a shard's `.npz`, with other arrays beside the samples'."""
    file = io.BytesIO()
    columns = {name: getattr(rows, name) for name in COLUMNS}
    arrays: dict[str, Any] = {**columns, "text": rows.names.text, "ends": rows.names.ends, **more}
    np.savez(file, **arrays)
    return file.getvalue()


def read_arrays(data: bytes, where: str) -> dict[str, np.ndarray]:
    """Read the arrays of an `.npz`; nothing is unpickled.

    Raises:
        ConfigError: where it is none.
    """
    try:
        with PARSING, np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{where}: damaged ({error}); pack it again, or fetch it again") from error


def read_rows(data: bytes, entry: ShardEntry, num_classes: int, where: str) -> ShardRows:
    """Read the index of a shard, and see that it is the one that was packed, and all it says possible.

    Raises:
        ConfigError: where it is damaged or does not fit the shard.
    """
    if hashlib.sha256(data).hexdigest() != entry.index_sha256:
        raise ConfigError(f"{where}: its SHA-256 is not that of {INDEX}; pack it again, or copy it again")
    arrays = read_arrays(data, where)
    try:
        columns = {name: arrays[name].astype(np.int64, casting="safe") for name in COLUMNS}
        text, ends = arrays["text"].astype(np.uint8, casting="safe"), arrays["ends"].astype(np.int64, casting="safe")
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{where}: not the index of a shard ({error}); pack it again") from error
    shapes = {column.shape for column in (*columns.values(), ends)}
    possible = (
        shapes == {(entry.samples,)}
        and text.ndim == 1
        and bool((np.diff(ends, prepend=0) >= 0).all() and (entry.samples == 0 or ends[-1] == len(text)))
        and _within(columns["label"], 0, num_classes - 1)
        and _within(columns["offset"], 0, entry.bytes)
        and _within(columns["length"], 0, entry.bytes)
        and _within(columns["offset"] + columns["length"], 0, entry.bytes)
        and _within(columns["height"], 1, LARGEST)
        and _within(columns["width"], 1, LARGEST)
    )
    if not possible:
        raise ConfigError(f"{where}: does not fit {entry.file} of {entry.samples:,} samples; pack it again")
    return ShardRows(**columns, names=PackedStrings.packed(text, ends))


def list_shards(folder: Path) -> DatasetListing:
    """List the images of a folder of shards; no image is opened.

    Raises:
        ConfigError: where an index is missing or damaged, or a shard is missing or has another length.
    """
    index = read_index(_read(folder / INDEX), str(folder / INDEX))

    def rows_of(entry: ShardEntry) -> ShardRows:
        path = folder / entry.file
        try:
            length = path.stat().st_size
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); pack it again") from error
        if length != entry.bytes:
            raise ConfigError(f"{path}: has {length:,} bytes, and {entry.bytes:,} were packed; pack it again")
        where = folder / entry.index_file
        return read_rows(_read(where), entry, len(index.classes), str(where))

    return build_listing(index, rows_of, lambda entry: LocalShard(folder / entry.file, entry.sha256))


def build_listing(
    index: ShardIndex,
    rows_of: Callable[[ShardEntry], ShardRows],
    shard_of: Callable[[ShardEntry], Shard],
    *,
    sequential: bool = False,
) -> DatasetListing:
    """Put the samples of all shards together, in the order in which they lie; `sequential` shards are read whole."""
    splits = {}
    for split in (name for name in SPLITS if name in index.splits):
        entries = index.splits[split]
        rows = [rows_of(entry) for entry in entries]
        splits[split] = _listing(rows, [shard_of(entry) for entry in entries], sequential)
    contents = DatasetListing(index.classes, splits, index.warnings + _left_out(index))
    return DatasetListing(index.classes, splits, contents.warnings + check_classes(contents))


def _listing(rows: Sequence[ShardRows], shards: Sequence[Shard], sequential: bool) -> SplitListing:
    if not rows:
        return SplitListing()

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(some, name) for some in rows])

    which = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
    return SplitListing(
        concatenate([some.names for some in rows]),
        PackedByteRanges(shards, which, column("offset"), column("length")),
        array("q", column("label").tobytes()),
        np.stack([column("height"), column("width")], 1),
        which if sequential else None,
    )


def _left_out(index: ShardIndex) -> tuple[str, ...]:
    count = len(index.left_out)
    return (f"{count:,} images were left out when this was packed; index.json lists them",) if count else ()


def _within(column: np.ndarray, least: int, most: int) -> bool:
    return bool(len(column) == 0 or (column.min() >= least and column.max() <= most))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); pack it again") from error


def find_damaged(folder: Path, workers: int, tell: Callable[[int, int], None] | None = None) -> dict[str, str]:
    """Read every shard and its index whole; return the names of files that are not as they were packed, and why.

    `tell` hears how many shards are done, and how many there are.

    Raises:
        ConfigError: where `index.json` cannot be read.
    """
    index = read_index(_read(folder / INDEX), str(folder / INDEX))
    entries = [entry for entries in index.splits.values() for entry in entries]

    def look(entry: ShardEntry) -> dict[str, str]:
        wanted = {entry.file: entry.sha256, entry.index_file: entry.index_sha256}
        return {name: reason for name, sha256 in wanted.items() if (reason := _unlike(folder / name, sha256))}

    found: dict[str, str] = {}
    with ThreadPoolExecutor(workers) as pool:
        for done, reasons in enumerate(pool.map(look, entries), start=1):
            found |= reasons
            if tell is not None:
                tell(done, len(entries))
    return found


def _unlike(path: Path, sha256: str) -> str:
    """Return what is wrong with a file, or nothing."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read ({error.strerror}); pack it again"
    return "" if found == sha256 else f"its SHA-256 is not that of {INDEX}; pack it again, or copy it again"
