"""List the images of parquet files in the layout of Hugging Face: encoded bytes in one column, labels in another."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetlab.config import ConfigError
from resnetlab.data.listing import DatasetListing, SplitListing, check_classes

if TYPE_CHECKING:
    from pyarrow import Schema
    from pyarrow.parquet import ParquetFile

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LABELS = ("label", "labels", "fine_label", "class", "target")
"""Columns that are taken for the label, the first that is there, where several could be."""
BATCH = 1024
"""Rows read at a time."""


@dataclass(frozen=True)
class Columns:
    """Where images and labels stand in a file, and the class names where the file says them."""

    image: str
    nested: bool
    """Whether an image is a structure of bytes and path, or the bytes themselves."""
    label: str
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class _Row:
    name: str
    data: bytes
    label: int | str


def list_parquet(path: Path) -> DatasetListing:
    """Read the encoded images of one parquet file, or of a folder of `train-*`, `validation-*` and `test-*` files.

    Rows count from 0. Class names come from the `huggingface` metadata, else they are the labels, sorted.

    Raises:
        ConfigError: where pyarrow is missing, a file is not parquet or lacks a column or a shard, `train` is missing,
            an image has no bytes, a label is missing or out of range, or two classes have one name; the message names
            file and row.
    """
    files, warnings = _files(path)
    opened = {shard: _open(shard) for shards in files.values() for shard in shards}
    columns = {shard: find_columns(file.schema_arrow, shard) for shard, file in opened.items()}
    first = next(iter(columns))
    for shard, found in columns.items():
        if found.classes != columns[first].classes:
            raise ConfigError(f"{shard}: its class names are not those of {first.name}")
    rows: dict[str, list[_Row]] = {}
    for split, shards in files.items():
        rows[split] = [row for shard in shards for row in _rows(opened[shard], columns[shard], shard)]
        if not rows[split]:
            raise ConfigError(f"{shards[0]}: no image in it; remove the file, or fill it")
    names, number = _numbering(columns[first].classes, rows)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(f"{path}: two classes are both called {twice[0]!r}; give each a name of its own")
    splits = {
        split: SplitListing(
            tuple(row.name for row in some), tuple(row.data for row in some), tuple(number[row.label] for row in some)
        )
        for split, some in rows.items()
    }
    return DatasetListing(names, splits, warnings + check_classes(DatasetListing(names, splits)))


def find_columns(schema: "Schema", path: Path) -> Columns:
    """Find the image and label columns of a file: by its metadata, else by name and type.

    Raises:
        ConfigError: where there is none that fits; the message lists the columns.
    """
    features = _features(schema)
    kinds = {name: _kind(schema.field(name).type) for name in schema.names}
    listed = ", ".join(f"{name} ({schema.field(name).type})" for name in schema.names) or "none"
    by_type = [name for name, kind in kinds.items() if kind in ("struct", "bytes")]
    images = [name for name in by_type if features.get(name, {}).get("_type") == "Image"] or by_type
    if not images:
        raise ConfigError(f"{path}: no column holds images as bytes; columns: {listed}")
    numbers = [name for name, kind in kinds.items() if kind == "int"]
    named = [name for name in LABELS if kinds.get(name) in ("int", "text")]
    declared = [name for name in kinds if features.get(name, {}).get("_type") == "ClassLabel" and kinds[name] == "int"]
    choices = [name for name in named if name in declared] or declared or named or numbers[: len(numbers) == 1]
    label = next(iter(choices), None)
    if label is None:
        raise ConfigError(f"{path}: no column is called label, nor is a single one of whole numbers; columns: {listed}")
    names = features.get(label, {}).get("names")
    classes = tuple(map(str, names)) if label in declared and names else None
    return Columns(images[0], kinds[images[0]] == "struct", label, classes)


def _files(path: Path) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """Find the files of each split, and say which are ignored; `all` where none is named after a split."""
    if path.is_file():
        return {"all": [path]}, ()
    found: dict[str, list[Path]] = {}
    others = []
    for file in sorted(path.glob("*.parquet")):
        match = re.match(r"(train|validation|valid|val|test)(?![a-z])", file.name)
        if match:
            found.setdefault(SPLITS[match[1]], []).append(file)
        else:
            others.append(file)
    if not found:
        return {"all": others}, ()
    if "train" not in found:
        first = next(iter(found.values()))[0].name
        raise ConfigError(f"{path}: there is {first} but no train-*.parquet; add it, or give one file alone")
    for files in found.values():
        _check_shards(files)
    ignored = (f"ignored, since named after no split: {', '.join(file.name for file in others)}",) if others else ()
    return {split: found[split] for split in ("train", "val", "test") if split in found}, ignored


def _check_shards(files: Sequence[Path]) -> None:
    """Refuse a split of which a part is missing, as `train-00001-of-00005.parquet` tells."""
    parts = [match for file in files if (match := re.search(r"-(\d+)-of-(\d+)\.parquet$", file.name))]
    for match in parts:
        missing = set(range(int(match[2]))) - {int(other[1]) for other in parts if other[2] == match[2]}
        if missing:
            raise ConfigError(
                f"{files[0].parent}: {files[0].name} is one of {int(match[2])} files, of which {len(missing)} "
                f"are missing, the first with number {min(missing):05}; add them"
            )


def _open(path: Path) -> "ParquetFile":
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("reading parquet needs pyarrow: pip install 'resnetlab[data]'") from error
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigError(f"{path}: not a parquet file ({_line(error)})") from error


def _rows(file: "ParquetFile", columns: Columns, path: Path) -> Iterable[_Row]:
    """Yield the rows of a file with their bytes in memory; no other column is read."""
    import pyarrow

    wanted = [f"{columns.image}.bytes", f"{columns.image}.path"] if columns.nested else [columns.image]
    try:
        row = 0
        for batch in file.iter_batches(BATCH, columns=[*wanted, columns.label]):
            images = batch.column(columns.image).to_pylist()
            for image, label in zip(images, batch.column(columns.label).to_pylist(), strict=True):
                name = f"{path.name} row {row}"
                yield _Row(name, _bytes(image, name), _label(label, columns.classes, name))
                row += 1
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigError(f"{path}: damaged ({_line(error)})") from error


def _bytes(image: Any, name: str) -> bytes:
    data = image.get("bytes") if isinstance(image, dict) else image
    if data is not None:
        return data
    where = image.get("path") if isinstance(image, dict) else None
    if where:
        raise ConfigError(f"{name}: the image is only a path ({where}), without its bytes; embed the images")
    raise ConfigError(f"{name}: there is no image; remove the row")


def _label(label: int | str | None, classes: tuple[str, ...] | None, name: str) -> int | str:
    if label is None or label == -1:
        raise ConfigError(f"{name}: the label is missing ({label}); give it one, or remove the row")
    if isinstance(label, int) and classes is not None and not 0 <= label < len(classes):
        raise ConfigError(f"{name}: label {label} is out of range; there are {len(classes)} classes from 0")
    return label


def _numbering(
    classes: tuple[str, ...] | None, rows: dict[str, list[_Row]]
) -> tuple[tuple[str, ...], dict[int | str, int]]:
    """Return the class names, and the number of each label."""
    if classes is not None:
        return classes, {number: number for number in range(len(classes))}
    found = {row.label for some in rows.values() for row in some}
    labels = sorted(found, key=lambda label: (0, label, "") if isinstance(label, int) else (1, 0, label))
    return tuple(map(str, labels)), {label: number for number, label in enumerate(labels)}


def _features(schema: "Schema") -> dict[str, Any]:
    """Return what Hugging Face wrote down about each column, as far as it can be read."""
    try:
        said = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {name: value for name, value in said.items() if isinstance(value, dict)} if isinstance(said, dict) else {}


def _kind(kind: Any) -> str:
    """Return what a column may be for: struct or bytes for an image, int or text for a label, or nothing."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        return "struct" if kind.get_field_index("bytes") >= 0 else ""
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "bytes"
    if types.is_integer(kind):
        return "int"
    return "text" if types.is_string(kind) or types.is_large_string(kind) else ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
