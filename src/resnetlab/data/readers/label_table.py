"""Listings of tables of labels: a CSV or TSV file with a row for each image, with one class or several labels.

The name of the column decides: `label` is the class of an image, `labels` are any number of labels, none included,
separated by `;`, `|` or `,`.
"""

import csv
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from resnetlab.config import ConfigError
from resnetlab.data.clutter import clutter_reason, find_overlays, folder_reason, has_image_suffix
from resnetlab.data.images.packed_sequences import PackedPaths, PackedStrings
from resnetlab.data.left_out import UNNAMED, LeftOutCounter, LeftOutGroup, shorten
from resnetlab.data.listing import DatasetListing, SplitListing, check_classes
from resnetlab.data.readers.folder import printable_name
from resnetlab.data.readers.label_values import check_label_values, class_each_warning
from resnetlab.data.readers.split_folders import class_tree_option
from resnetlab.data.readers.table_columns import (
    ALL,
    CLASS_COLUMN,
    SPLIT_COLUMN,
    find_columns,
    find_tables,
    refuse_merged_splits,
)
from resnetlab.data.split_names import SPLIT_NAMES, is_unsure, split_of

SEPARATORS = ";|,"
"""Characters that may separate the labels of an image; a table uses one of them."""
EXPECTED = "expected a column file and a column label (one class) or labels (several, separated by ;)"


@dataclass(frozen=True)
class _Table:
    """The columns of a table, one entry for each row."""

    path: Path
    label_column: str
    files: tuple[str, ...]
    cells: tuple[str, ...]
    """Content of the label column."""
    splits: tuple[str, ...]
    """Content of the split column; empty if there is none."""

    @property
    def is_multi_label(self) -> bool:
        return self.label_column.lower() != CLASS_COLUMN


def list_label_table(path: Path) -> DatasetListing:
    """List the images of a table of labels, or of the tables in a folder, without decoding any image.

    Paths in a table are relative to its folder. A column `split` names the split of each row. Without it, and without
    a table for each split, all rows are one split, from which validation and test images are drawn. Classes are sorted
    by name, in Unicode form NFC. Images in the folders of the rows that no row names are counted, and of a given
    folder those in all its folders.

    Raises:
        ConfigError: If a table or folder cannot be read, a table lacks a column, a file is missing or listed twice, a
            split is unknown, the labels use several separators, an image with one class has none, or the tables differ
            in kind.
    """
    tables = {split: _read_table(file) for split, file in (find_tables(path) if path.is_dir() else {ALL: path}).items()}
    first = next(iter(tables.values()))
    for table in tables.values():
        if table.is_multi_label != first.is_multi_label:
            raise ConfigError(
                f"{first.path} has a column {first.label_column} and {table.path} a column {table.label_column}; name "
                "both label (one class) or labels (several)"
            )
    separator = _separator(list(tables.values()))
    root = path if path.is_dir() else path.parent
    try:
        option = class_tree_option(path) if path.is_dir() else None
        rows = _rows_by_split(tables, separator, f"; if its folders are the classes, give {option}" if option else "")
        left_out = _unnamed_images(root, rows, whole=path.is_dir())
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror})") from error
    classes = tuple(sorted({label for part in rows.values() for _, labels in part for label in labels}))
    number = {name: index for index, name in enumerate(classes)}
    listing = DatasetListing(
        classes,
        {
            split: _split_listing(root, rows[split], number, multi_label=first.is_multi_label)
            for split in (*SPLIT_NAMES, ALL)
            if split in rows
        },
        (
            *(group.line for group in left_out),
            *_choice_warnings(tables, option),
            *(_space_warning(classes, separator) if first.is_multi_label else ()),
        ),
        kind="images in a table, " + ("several labels an image" if first.is_multi_label else "one class an image"),
        sources={split: table.path.name for split, table in tables.items() if split in rows},
        columns={"label": first.label_column},
        left_out=left_out,
    )
    return replace(listing, warnings=listing.warnings + _value_warnings(tables, rows, listing) + check_classes(listing))


def _value_warnings(
    tables: Mapping[str, _Table],
    rows: Mapping[str, Sequence[tuple[str, tuple[str, ...]]]],
    listing: DatasetListing,
) -> tuple[str, ...]:
    """Check the values of the labels, and return warnings about them."""
    table = next(iter(tables.values()))
    first: dict[str, dict[str, str]] = {split: {} for split in rows}
    for split, part in rows.items():
        path = tables.get(split, table).path
        for file, label in ((file, label) for file, labels in part for label in labels):
            first[split].setdefault(label, f"{path.name} row of {shorten(file)}")
    rename = f"call the column of the classes {CLASS_COLUMN}"
    warnings = check_label_values(first, column=table.label_column, remedy=rename)
    if not table.is_multi_label:
        num_images = sum(map(len, rows.values()))
        return warnings + class_each_warning(num_images, len(listing.classes), table.label_column, rename)
    if all(len(labels) == 1 for part in rows.values() for _, labels in part):
        line = f"each image has one label; call the column {CLASS_COLUMN}, not {table.label_column}, if it is its class"
        return (*warnings, line)
    return warnings


def _read_table(path: Path) -> _Table:
    """Read the columns of a table as text.

    Raises:
        ConfigError: If it cannot be read, a column is missing, or it has no rows.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            columns = find_columns(header, path)
            if columns is None:
                raise ConfigError(f"{path}: columns {shorten(header.strip(), 80)}; {EXPECTED}")
            delimiter, file_column, label_column = columns
            file.seek(0)
            rows = list(csv.DictReader(file, delimiter=delimiter, strict=True))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as a table in UTF-8 ({error})") from error
    if not rows:
        raise ConfigError(f"{path}: has no rows; give each image a row")
    split_column = next((name for name in rows[0] if name and name.strip().lower() == SPLIT_COLUMN), None)
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ConfigError(
                f"{path}: row {number} has another number of columns than the header; put labels that contain "
                f"{delimiter!r} into quotes"
            )
    return _Table(
        path,
        label_column.strip(),
        tuple(row[file_column].strip() for row in rows),
        tuple(unicodedata.normalize("NFC", row[label_column].strip()) for row in rows),
        tuple(row[split_column].strip() for row in rows) if split_column else (),
    )


def _separator(tables: Sequence[_Table]) -> str | None:
    """Return the character that separates the labels; `None` if no image has two, or if each has one class.

    Raises:
        ConfigError: If the tables contain several of them.
    """
    if not tables[0].is_multi_label:
        return None
    used: dict[str, tuple[Path, int]] = {}
    for table in tables:
        for row, cell in enumerate(table.cells, start=2):
            for character in SEPARATORS:
                if character in cell:
                    used.setdefault(character, (table.path, row))
    if len(used) > 1:
        where = " and ".join(f"{character!r} (row {row} of {path.name})" for character, (path, row) in used.items())
        raise ConfigError(f"{tables[0].path}: labels are separated by {where}; use one of them, and no label with it")
    return next(iter(used), None)


def _rows_by_split(
    tables: Mapping[str, _Table], separator: str | None, hint: str
) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """Return the file and the labels of each row by split, and check each row; `hint` ends the error of no file."""
    rows: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    seen: dict[str, str] = {}
    for table_split, table in tables.items():
        for index, (file, cell) in enumerate(zip(table.files, table.cells, strict=True)):
            where = f"{table.path}: row {index + 2}"
            labels = tuple(label.strip() for label in (cell.split(separator) if separator else [cell]))
            labels = tuple(label for label in labels if label)
            if not labels and not table.is_multi_label:
                raise ConfigError(f"{where} has no label; add one, or name the column labels if images may have none")
            if not file:
                raise ConfigError(f"{where} names no file")
            if Path(file).is_absolute():
                raise ConfigError(f"{where}: {shorten(file)} must be relative to {table.path.parent}")
            if not (table.path.parent / file).is_file():
                raise ConfigError(f"{where}: {shorten(file)} is no file in {table.path.parent}{hint}")
            key = _plain_name(file)
            if key in seen:
                raise ConfigError(f"{where}: {shorten(file)} is in {seen[key]} too; give each image one row")
            seen[key] = f"row {index + 2} of {table.path.name}"
            split = table_split
            if table.splits:
                split = _split_of_row(table.splits[index], where)
                if table_split not in (ALL, split):
                    raise ConfigError(f"{where} is of split {split}, and the table is called {table.path.name}")
            rows.setdefault(split, []).append((file, labels))
    for table in tables.values():
        refuse_merged_splits(table.path, table.splits)
    if rows.keys() - {ALL} and "train" not in rows:
        raise ConfigError(f"{next(iter(tables.values())).path}: no row is of split train; name the split of each row")
    return rows


def _plain_name(file: str) -> str:
    """Return one spelling of a relative path, whatever its dots, slashes and Unicode form: `a.jpg` for `./a.jpg`."""
    return unicodedata.normalize("NFC", os.path.normpath(file))


def _unnamed_images(
    root: Path, rows: Mapping[str, Sequence[tuple[str, tuple[str, ...]]]], *, whole: bool
) -> tuple[LeftOutGroup, ...]:
    """Count the images that no row names, in the folders of named images and, if `whole`, anywhere in `root`."""
    files = [file for part in rows.values() for file, _ in part]
    named = set(map(_plain_name, files))
    folders = {_plain_name(str(Path(file).parent)): str(Path(file).parent) for file in files}
    if whole:
        for folder, inside, _ in os.walk(root):
            inside[:] = [name for name in inside if not clutter_reason(name) and not folder_reason(Path(folder, name))]
            relative = os.path.relpath(folder, root)
            folders.setdefault(_plain_name(relative), relative)
    left_out = LeftOutCounter()
    for folder in map(root.joinpath, folders.values()):
        names = [entry.name for entry in os.scandir(folder) if has_image_suffix(entry.name) and entry.is_file()]
        paths = [folder / name for name in sorted(names) if clutter_reason(name) is None]
        unnamed = [path for path in paths if _plain_name(os.path.relpath(path, root)) not in named]
        overlays = find_overlays(unnamed)
        for path in unnamed:
            if path not in overlays:
                left_out.add(UNNAMED, printable_name(os.path.relpath(path, root)))
    return left_out.summary()


def _split_of_row(cell: str, where: str) -> str:
    split = split_of(cell)
    if split is None:
        raise ConfigError(f"{where}: split {shorten(cell) or 'is empty'}; each row is of train, val or test")
    return split


def _split_listing(
    root: Path, rows: Sequence[tuple[str, tuple[str, ...]]], number: Mapping[str, int], *, multi_label: bool
) -> SplitListing:
    files = [file for file, _ in rows]
    names = PackedStrings.from_strings(unicodedata.normalize("NFC", file.replace(os.sep, "/")) for file in files)
    paths = PackedPaths.from_paths(root, [root / file for file in files])
    if not multi_label:
        return SplitListing(names, paths, [number[labels[0]] for _, labels in rows])
    matrix = np.zeros((len(rows), len(number)), bool)
    for row, (_, labels) in enumerate(rows):
        matrix[row, [number[name] for name in labels]] = True
    return SplitListing(names, paths, label_matrix=matrix)


def _choice_warnings(tables: Mapping[str, _Table], option: str | None) -> tuple[str, ...]:
    """Return warnings about tables whose split is unsure, and about folders that look like classes beside a table.

    `option` reads the folders instead; `None` if they do not look like classes.
    """
    names = {split: shorten(table.path.name) for split, table in tables.items()}
    unsure = [name for split, name in names.items() if split == "val" and is_unsure(tables[split].path.stem)]
    warnings = [f"{name} is read as val; if it is the test split, rename it" for name in unsure]
    cells = dict.fromkeys(cell for table in tables.values() for cell in table.splits if is_unsure(cell))
    if cells and not unsure:
        cell = shorten(next(iter(cells)))
        warnings.append(
            f"split {cell} is read as val; if it is the test split, write test in the column {SPLIT_COLUMN}"
        )
    if option is not None:
        read = " and ".join(names.values())
        warnings.append(f"{read} {'is' if len(names) == 1 else 'are'} read, not the folders; for those give {option}")
    return tuple(warnings)


def _space_warning(classes: Sequence[str], separator: str | None) -> tuple[str, ...]:
    """Return a warning if no label has a separator and some have spaces, which may separate labels."""
    spaced = [name for name in classes if " " in name]
    if separator is not None or not spaced:
        return ()
    return (f"{shorten(spaced[0])} is read as one label; separate labels by ; if it is several",)
