"""The file format of shards: tar files in WebDataset's naming, an index of each, and one `index.json` for all.

`train-000000.tar` holds `00000017.jpg`, `00000017.cls` (class index) and `00000017.json` (original name and class).
`train-000000.npz` holds offset, length, label and size of each image in it, so that images can be listed without
opening the shard. Neither file is read with pickle.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resnetlab.config import ConfigError
from resnetlab.data.images.packed_sequences import PackedByteRanges, PackedStrings, concatenate
from resnetlab.data.images.storage import Shard
from resnetlab.data.listing import DatasetListing, SplitListing, check_classes
from resnetlab.data.registry import INDEX_FILE
from resnetlab.serialization import from_json

FORMAT = "resnetlab shards 1"
SPLITS = ("train", "val", "test", "all")
CHECKSUM_KEY = "sha256"
"""Key of the SHA-256 in `index.json`."""
INDEX_KEYS = ("format", "classes", "splits", "left_out", "warnings", "packed", CHECKSUM_KEY)
COLUMNS = ("offset", "length", "label", "height", "width")
SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_SIDE = 1 << 16
"""Largest height and width in pixels; larger values mean that an index is damaged."""
NPZ_LOCK = threading.Lock()
"""Held while NumPy reads headers: it uses `ast`, which in Python 3.11 sometimes fails in threads (gh-106905)."""


@dataclass(frozen=True)
class ShardEntry:
    """One shard, as listed in `index.json`."""

    file: str
    """Name of the tar file; the name of its index has the suffix `.npz` instead."""
    samples: int
    """Number of samples."""
    bytes: int
    """Size of the tar file."""
    sha256: str
    index_sha256: str

    @property
    def index_file(self) -> str:
        """Name of the shard's index."""
        return self.file.removesuffix(".tar") + ".npz"


@dataclass(frozen=True)
class ShardIndex:
    """The content of `index.json`."""

    classes: tuple[str, ...]
    splits: Mapping[str, tuple[ShardEntry, ...]]
    left_out: tuple[str, ...] = ()
    """Images that could not be read when the data set was packed, each as `NAME: REASON`."""
    warnings: tuple[str, ...] = ()
    """Warnings about the source."""
    packed: Mapping[str, Any] = field(default_factory=dict)
    """The packing manifest: source and options (`manifest.py`)."""

    def to_json(self) -> str:
        """Return the text of `index.json`; it starts with the format, and ends with the SHA-256 of the other values."""
        content = json.loads(json.dumps({"format": FORMAT, **asdict(self)}))
        return json.dumps({**content, CHECKSUM_KEY: _content_sha256(content)}, ensure_ascii=False, indent=1) + "\n"


@dataclass(frozen=True)
class ShardRows:
    """The samples of one shard: int64 columns of the same length, and original names."""

    offset: np.ndarray
    """Offset of the image in the tar file, in bytes."""
    length: np.ndarray
    """Size of the encoded image, in bytes."""
    label: np.ndarray
    height: np.ndarray
    """Height in pixels, with EXIF orientation applied."""
    width: np.ndarray
    names: PackedStrings

    def __len__(self) -> int:
        return len(self.offset)


def read_index(text: bytes | str, where: str) -> ShardIndex:
    """Parse and check an `index.json`.

    Args:
        text: The content.
        where: Path or URL of the file; error messages begin with it.

    Raises:
        ConfigError: If the content is not an index, or has another format.
    """
    try:
        content = json.loads(text)
        found = content.pop("format")
        if found != FORMAT:
            raise ConfigError(f"{where}: has format {found!r}, but this version reads {FORMAT!r}")
        splits = {
            split: tuple(from_json(ShardEntry, entry) for entry in entries)
            for split, entries in content["splits"].items()
        }
        index = ShardIndex(
            classes=tuple(map(str, content["classes"])),
            splits=splits,
            left_out=tuple(content["left_out"]),
            warnings=tuple(content["warnings"]),
            packed=dict(content["packed"]),
        )
    except ConfigError as error:
        raise ConfigError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{where}: not an index of shards ({error}); pack into another folder, or copy it again"
        ) from error
    if not splits or not set(splits) <= set(SPLITS) or ("train" in splits) == ("all" in splits):
        raise ConfigError(f"{where}: has splits {', '.join(splits) or 'none'}, but needs train or all")
    _check_unique([entry.file for entries in splits.values() for entry in entries], where)
    _check_unique(index.classes, where)
    for entry in (entry for entries in splits.values() for entry in entries):
        if Path(entry.file).name != entry.file or not entry.file.endswith(".tar") or entry.file.startswith("."):
            raise ConfigError(f"{where}: {entry.file!r} is not the name of a shard")
        if not (SHA256.fullmatch(entry.sha256) and SHA256.fullmatch(entry.index_sha256)):
            raise ConfigError(f"{where}: {entry.file} has no SHA-256")
        if min(entry.samples, entry.bytes) < 0:
            raise ConfigError(f"{where}: {entry.file} has {entry.samples} samples in {entry.bytes} bytes")
    _check_checksum({"format": found, **content}, where)
    return index


def _check_checksum(content: dict[str, Any], where: str) -> None:
    """Raise if an index differs from its SHA-256, or has an unknown key, such as a damaged one."""
    unknown = sorted(content.keys() - set(INDEX_KEYS))
    stored = content.pop(CHECKSUM_KEY, None)
    if unknown or stored not in (None, _content_sha256(content)):
        raise ConfigError(f"{where}: is not as it was written; pack into another folder, or copy it again")


def _content_sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_unique(names: Sequence[str], where: str) -> None:
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        raise ConfigError(f"{where}: {duplicates[0]!r} is listed twice")


def pack_rows(rows: ShardRows, **extra_arrays: np.ndarray) -> bytes:
    """Return the content of a shard's `.npz` file: the columns of its samples, and extra arrays."""
    file = io.BytesIO()
    columns = {name: getattr(rows, name) for name in COLUMNS}
    arrays: dict[str, Any] = {**columns, "text": rows.names.text, "ends": rows.names.ends, **extra_arrays}
    np.savez(file, **arrays)
    return file.getvalue()


def read_arrays(data: bytes, where: str) -> dict[str, np.ndarray]:
    """Return the arrays of an `.npz` file, read without pickle.

    Raises:
        ConfigError: If the content is not an `.npz` file; the message begins with `where`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > len(data):
                raise ValueError("its arrays are larger than the file")
        with NPZ_LOCK, np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except MemoryError as error:  # a header claims more values than follow
        raise ConfigError(f"{where}: damaged (an array does not fit into memory); pack it again") from error
    except (ValueError, OSError, EOFError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{where}: damaged ({error}); pack it again, or download it again") from error


def read_rows(data: bytes, entry: ShardEntry, *, num_classes: int, where: str) -> ShardRows:
    """Read the index of a shard and check its SHA-256 and the range of all values.

    Args:
        data: Content of the shard's `.npz` file.
        entry: The shard.
        num_classes: Number of classes, an upper limit of labels.
        where: Path or URL of the index; error messages begin with it.

    Raises:
        ConfigError: If the index is damaged or does not fit the shard.
    """
    if hashlib.sha256(data).hexdigest() != entry.index_sha256:
        raise ConfigError(f"{where}: its SHA-256 differs from {INDEX_FILE}; pack it again, or copy it again")
    arrays = read_arrays(data, where)
    try:
        columns = {name: arrays[name].astype(np.int64, casting="safe") for name in COLUMNS}
        text, ends = arrays["text"].astype(np.uint8, casting="safe"), arrays["ends"].astype(np.int64, casting="safe")
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{where}: not the index of a shard ({error}); pack it again") from error
    shapes = {column.shape for column in (*columns.values(), ends)}
    is_valid = (
        shapes == {(entry.samples,)}
        and text.ndim == 1
        and bool((np.diff(ends, prepend=0) >= 0).all() and (entry.samples == 0 or ends[-1] == len(text)))
        and _within(columns["label"], 0, num_classes - 1)
        and _within(columns["offset"], 0, entry.bytes)
        and _within(columns["length"], 0, entry.bytes)
        and _within(columns["offset"] + columns["length"], 0, entry.bytes)
        and _within(columns["height"], 1, MAX_SIDE)
        and _within(columns["width"], 1, MAX_SIDE)
    )
    if not is_valid:
        raise ConfigError(f"{where}: does not fit {entry.file} of {entry.samples:,} samples; pack it again")
    return ShardRows(**columns, names=PackedStrings.from_buffer(text, ends))


def build_listing(
    index: ShardIndex,
    rows_of: Callable[[ShardEntry], ShardRows],
    shard_of: Callable[[ShardEntry], Shard],
    *,
    sequential: bool = False,
) -> DatasetListing:
    """Return a listing of the samples of all shards, in stored order.

    Args:
        index: The index of the data set.
        rows_of: Returns the samples of a shard.
        shard_of: Returns the shard itself.
        sequential: Whether shards must be read whole, one after the other.
    """
    splits = {}
    for split in (name for name in SPLITS if name in index.splits):
        entries = index.splits[split]
        rows = [rows_of(entry) for entry in entries]
        splits[split] = _list_split(rows, [shard_of(entry) for entry in entries], sequential=sequential)
    listing = DatasetListing(index.classes, splits, index.warnings + _warn_left_out(index))
    return DatasetListing(index.classes, splits, listing.warnings + check_classes(listing))


def _list_split(rows: Sequence[ShardRows], shards: Sequence[Shard], *, sequential: bool) -> SplitListing:
    if not rows:
        return SplitListing()

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(shard_rows, name) for shard_rows in rows])

    shard_index = np.repeat(np.arange(len(rows)), [len(shard_rows) for shard_rows in rows])
    return SplitListing(
        names=concatenate([shard_rows.names for shard_rows in rows]),
        storage=PackedByteRanges(shards, shard_index, offsets=column("offset"), lengths=column("length")),
        labels=array("q", column("label").tobytes()),
        sizes=np.stack([column("height"), column("width")], 1),
        shards=shard_index if sequential else None,
    )


def _warn_left_out(index: ShardIndex) -> tuple[str, ...]:
    count = len(index.left_out)
    return (f"{count:,} images were left out when this was packed; index.json lists them",) if count else ()


def _within(column: np.ndarray, minimum: int, maximum: int) -> bool:
    return bool(len(column) == 0 or (column.min() >= minimum and column.max() <= maximum))
