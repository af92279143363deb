"""Listings of parquet files in Hugging Face's layout: encoded images in one column, labels in another."""

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
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
"""Names of label columns; the first that exists is used."""
BATCH_ROWS = 1024
"""Rows read at a time."""


@dataclass(frozen=True)
class Columns:
    """The image and label columns of a file, and the class names from its metadata."""

    image: str
    nested: bool
    """Whether the image column is a structure of bytes and path instead of bytes."""
    label: str
    classes: tuple[str, ...] | None
    """Class names from the file's metadata, or `None`."""


@dataclass(frozen=True)
class _Row:
    name: str
    data: bytes
    label: int | str


def list_parquet(path: Path) -> DatasetListing:
    """Read the encoded images of one parquet file, or of a folder of `train-*`, `validation-*` and `test-*` files.

    Row numbers start at 0. Class names come from the `huggingface` metadata; without it, the sorted labels are the
    class names.

    Raises:
        ConfigError: If pyarrow is missing, a file is not parquet or lacks a column, a file of a split is missing,
            `train` is missing, an image has no bytes, a label is missing or out of range, or two classes have the same
            name; the message names file and row.
    """
    files, warnings = _split_files(path)
    opened = {file: _open(file) for split_files in files.values() for file in split_files}
    columns = {file: find_columns(parquet.schema_arrow, file) for file, parquet in opened.items()}
    first = next(iter(columns))
    for file, found in columns.items():
        if found.classes != columns[first].classes:
            raise ConfigError(f"{file}: its class names differ from those of {first.name}; write both with equal names")
    rows: dict[str, list[_Row]] = {}
    for split, split_files in files.items():
        rows[split] = [row for file in split_files for row in _read_rows(opened[file], columns[file], file)]
        if not rows[split]:
            raise ConfigError(f"{split_files[0]}: has no image; remove the file, or add images")
    classes, class_of = _number_classes(columns[first].classes, rows)
    duplicates = [name for name, count in Counter(classes).items() if count > 1]
    if duplicates:
        raise ConfigError(f"{path}: two classes are both called {duplicates[0]!r}; give each a name of its own")
    splits = {
        split: SplitListing(
            names=tuple(row.name for row in split_rows),
            storage=tuple(row.data for row in split_rows),
            labels=tuple(class_of[row.label] for row in split_rows),
        )
        for split, split_rows in rows.items()
    }
    return DatasetListing(classes, splits, warnings + check_classes(DatasetListing(classes, splits)))


def find_columns(schema: "Schema", path: Path) -> Columns:
    """Return the image and label columns of a file, found by its metadata, or else by name and type.

    Raises:
        ConfigError: If no column fits; the message lists the columns.
    """
    features = _features(schema)
    kinds = {name: _column_kind(schema.field(name).type) for name in schema.names}
    listed = ", ".join(f"{name} ({schema.field(name).type})" for name in schema.names) or "none"
    by_type = [name for name, kind in kinds.items() if kind in ("struct", "bytes")]
    images = [name for name in by_type if features.get(name, {}).get("_type") == "Image"] or by_type
    if not images:
        raise ConfigError(f"{path}: no column holds images as bytes; columns: {listed}")
    integers = [name for name, kind in kinds.items() if kind == "int"]
    named = [name for name in LABEL_COLUMNS if kinds.get(name) in ("int", "text")]
    declared = [name for name in kinds if features.get(name, {}).get("_type") == "ClassLabel" and kinds[name] == "int"]
    candidates = [name for name in named if name in declared] or declared or named or integers[: len(integers) == 1]
    label = next(iter(candidates), None)
    if label is None:
        raise ConfigError(
            f"{path}: no column is called label, and there is not exactly one column of integers; columns: {listed}"
        )
    names = features.get(label, {}).get("names")
    classes = tuple(map(str, names)) if label in declared and names else None
    return Columns(images[0], kinds[images[0]] == "struct", label, classes)


def _split_files(path: Path) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """Return the files of each split and a warning about others; `all` if no file is named after a split."""
    if path.is_file():
        return {"all": [path]}, ()
    files: dict[str, list[Path]] = {}
    others = []
    for file in sorted(path.glob("*.parquet")):
        match = re.match(r"(train|validation|valid|val|test)(?![a-z])", file.name)
        if match:
            files.setdefault(SPLITS[match[1]], []).append(file)
        else:
            others.append(file)
    if not files:
        return {"all": others}, ()
    if "train" not in files:
        first = next(iter(files.values()))[0].name
        raise ConfigError(f"{path}: has {first} but no train-*.parquet; add it, or give a single file")
    for split_files in files.values():
        _check_complete(split_files)
    warnings = ()
    if others:
        warnings = (f"ignored files that are not named after a split: {', '.join(file.name for file in others)}",)
    return {split: files[split] for split in ("train", "val", "test") if split in files}, warnings


def _check_complete(files: Sequence[Path]) -> None:
    """Raise if a file of a split is missing, judging from names such as `train-00001-of-00005.parquet`."""
    matches = [match for file in files if (match := re.search(r"-(\d+)-of-(\d+)\.parquet$", file.name))]
    for match in matches:
        missing = set(range(int(match[2]))) - {int(other[1]) for other in matches if other[2] == match[2]}
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
        raise ConfigError(f"{path}: not a parquet file ({_one_line(error)})") from error


def _read_rows(file: "ParquetFile", columns: Columns, path: Path) -> Iterable[_Row]:
    """Yield the rows of a file with the images' bytes; no other column is read."""
    import pyarrow

    wanted = [f"{columns.image}.bytes", f"{columns.image}.path"] if columns.nested else [columns.image]
    try:
        row = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=[*wanted, columns.label]):
            images = batch.column(columns.image).to_pylist()
            for image, label in zip(images, batch.column(columns.label).to_pylist(), strict=True):
                name = f"{path.name} row {row}"
                yield _Row(name, _image_bytes(image, name), _check_label(label, columns.classes, name))
                row += 1
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigError(f"{path}: damaged ({_one_line(error)})") from error


def _image_bytes(image: Any, name: str) -> bytes:
    data = image.get("bytes") if isinstance(image, dict) else image
    if data is not None:
        return data
    path = image.get("path") if isinstance(image, dict) else None
    if path:
        raise ConfigError(f"{name}: the image is only a path ({path}), without its bytes; embed the images")
    raise ConfigError(f"{name}: there is no image; remove the row")


def _check_label(label: int | str | None, classes: tuple[str, ...] | None, name: str) -> int | str:
    if label is None or label == -1:
        raise ConfigError(f"{name}: the label is missing ({label}); add it, or remove the row")
    if isinstance(label, int) and classes is not None and not 0 <= label < len(classes):
        raise ConfigError(f"{name}: label {label} is out of range; there are {len(classes)} classes from 0")
    return label


def _number_classes(
    classes: tuple[str, ...] | None, rows: dict[str, list[_Row]]
) -> tuple[tuple[str, ...], dict[int | str, int]]:
    """Return the class names, and the class index of each label value."""
    if classes is not None:
        return classes, {number: number for number in range(len(classes))}
    values = {row.label for split_rows in rows.values() for row in split_rows}
    ordered = sorted(values, key=lambda value: (0, value, "") if isinstance(value, int) else (1, 0, value))
    return tuple(map(str, ordered)), {value: number for number, value in enumerate(ordered)}


def _features(schema: "Schema") -> dict[str, Any]:
    """Return Hugging Face's metadata of each column; empty if there is none or it cannot be parsed."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: value for name, value in features.items() if isinstance(value, dict)}


def _column_kind(arrow_type: Any) -> str:
    """Return `struct` or `bytes` for an image column, `int` or `text` for a label column, and "" for others."""
    from pyarrow import types

    if types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    if types.is_struct(arrow_type):
        return "struct" if arrow_type.get_field_index("bytes") >= 0 else ""
    if types.is_binary(arrow_type) or types.is_large_binary(arrow_type):
        return "bytes"
    if types.is_integer(arrow_type):
        return "int"
    return "text" if types.is_string(arrow_type) or types.is_large_string(arrow_type) else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
