"""Listings of parquet files in Hugging Face's layout: encoded images in one column, labels in another."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetlab.config import ConfigError
from resnetlab.data.left_out import shorten
from resnetlab.data.listing import DatasetListing, SplitListing, check_classes
from resnetlab.data.readers.label_values import MISSING, check_label_values, class_each_warning
from resnetlab.data.readers.parquet_columns import Columns, find_columns
from resnetlab.data.readers.parquet_files import ParquetFiles, find_split_files

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

LFS_POINTER = b"version https://git-lfs"
"""Start of the file that a clone without Git LFS has in place of a large one."""
BATCH_ROWS = 1024
"""Rows read at a time."""


@dataclass(frozen=True)
class _Row:
    name: str
    data: bytes
    label: int | str


def list_parquet(
    path: Path,
    split_folders: Mapping[str, str] | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
) -> DatasetListing:
    """Read the encoded images of one parquet file, or of a folder of `train-*`, `validation-*` and `test-*` files.

    Row numbers start at 0. Class names come from the `huggingface` metadata; without it, the sorted labels are the
    class names. `split_folders` is as for `find_split_files`, the columns are as for `find_columns`.

    Raises:
        ConfigError: If pyarrow is missing, a file is not parquet or has no unambiguous column, names do not say the
            splits, a file of a split is missing, `train` is missing, an image has no bytes, a label is missing or out
            of range, or two classes have the same name; the message names file and row.
    """
    files = find_split_files(path, split_folders or {})
    opened = {file: _open(file) for split_files in files.splits.values() for file in split_files}
    columns = {
        file: find_columns(parquet, file, image=image_column, label=label_column) for file, parquet in opened.items()
    }
    first = next(iter(columns))
    for file, found in columns.items():
        if found.classes != columns[first].classes:
            raise ConfigError(f"{file}: its class names differ from those of {first.name}; write both with equal names")
    root = path.parent if path.is_file() else path
    rows: dict[str, list[_Row]] = {}
    for split, split_files in files.splits.items():
        rows[split] = [
            row
            for file in split_files
            for row in _read_rows(opened[file], columns[file], file, file.relative_to(root).as_posix())
        ]
        if not rows[split]:
            raise ConfigError(f"{split_files[0]}: has no image; remove the file, or add images")
    doubtful = _check_values(rows, columns[first])
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
    return _make_listing(classes, splits, files, columns, doubtful)


def _check_values(rows: Mapping[str, Sequence[_Row]], columns: Columns) -> tuple[str, ...]:
    """Return warnings about labels that may be missing; names from metadata are no labels of rows."""
    if columns.classes is not None:
        return ()
    first: dict[str, dict[str, str]] = {split: {} for split in rows}
    for split, split_rows in rows.items():
        for row in split_rows:
            first[split].setdefault(str(row.label), row.name)
    return check_label_values(first, column=columns.label, remedy="name another column with --label-column")


def _make_listing(
    classes: tuple[str, ...],
    splits: dict[str, SplitListing],
    files: ParquetFiles,
    columns: Mapping[Path, Columns],
    doubtful: tuple[str, ...],
) -> DatasetListing:
    """Return the listing with what was read and left out; the classes are checked."""
    left_out = tuple(group.line for group in files.left_out if group.is_warning)
    listing = DatasetListing(
        classes,
        splits,
        (
            *left_out,
            *files.warnings,
            *dict.fromkeys(line for found in columns.values() for line in found.warnings),
            *_column_warnings(columns),
            *doubtful,
        ),
        kind="parquet files",
        sources=files.sources,
        columns={
            "image": ", ".join(dict.fromkeys(found.image for found in columns.values())),
            "label": ", ".join(dict.fromkeys(found.label for found in columns.values())),
        },
        left_out=files.left_out,
    )
    num_images = sum(map(len, splits.values()))
    each = class_each_warning(num_images, len(classes), listing.columns["label"], "--label-column")
    return replace(listing, warnings=listing.warnings + each + check_classes(listing))


def _column_warnings(columns: Mapping[Path, Columns]) -> tuple[str, ...]:
    """Return a warning if the labels, or the images, of the files come from columns of different names."""
    warnings = []
    for option, named in (
        ("--image-column", {found.image: file for file, found in columns.items()}),
        ("--label-column", {found.label: file for file, found in columns.items()}),
    ):
        if len({name.casefold() for name in named}) > 1:
            what = "images" if option == "--image-column" else "labels"
            listed = ", ".join(f"{shorten(name)} of {shorten(file.name)}" for name, file in named.items())
            warnings.append(f"the {what} come from different columns: {listed}; give all one name, or {option}")
    return tuple(warnings)


def _open(path: Path) -> "ParquetFile":
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("reading parquet needs pyarrow: pip install 'resnetlab[data]'") from error
    try:
        return pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)  # where the file has checksums
    except (OSError, pyarrow.ArrowException) as error:
        with path.open("rb") as head:
            if head.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ConfigError(f"{path}: only a pointer of Git LFS; fetch the file with: git lfs pull") from error
        raise ConfigError(f"{path}: not a parquet file ({_one_line(error)})") from error


def _read_rows(file: "ParquetFile", columns: Columns, path: Path, label: str) -> Iterable[_Row]:
    """Yield the rows of a file with the images' bytes; no other column is read. `label` names the file in messages."""
    import pyarrow

    wanted = [f"{columns.image}.bytes", f"{columns.image}.path"] if columns.nested else [columns.image]
    try:
        row = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=[*wanted, columns.label]):
            images = batch.column(columns.image).to_pylist()
            for image, value in zip(images, batch.column(columns.label).to_pylist(), strict=True):
                name = f"{label} row {row}"
                yield _Row(name, _image_bytes(image, name), _check_label(value, columns, name))
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


def _check_label(label: float | str | None, columns: Columns, name: str) -> int | str:
    """Return a label as a whole number or text."""
    if isinstance(label, bool):
        return str(label).lower()
    blank = isinstance(label, str) and not label.strip()
    hidden = label == MISSING and columns.classes is not None
    if label is None or blank or hidden or label != label:  # NaN stands for a missing number
        raise ConfigError(
            f"{name}: the label is missing ({'empty' if blank else label}); add it, remove the row, or leave the "
            "file out with --split-folders"
        )
    if isinstance(label, float):
        if not label.is_integer():
            raise ConfigError(
                f"{name}: {columns.label} is {label:g}, and a label is a whole number or text; name another column "
                "with --label-column"
            )
        label = int(label)
    if isinstance(label, str):
        return unicodedata.normalize("NFC", label)  # as class folders are
    if isinstance(label, int) and columns.classes is not None and not 0 <= label < len(columns.classes):
        raise ConfigError(f"{name}: label {label} is out of range; there are {len(columns.classes)} classes from 0")
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
