"""The columns that make a CSV or TSV file a table of labels, and the tables in a folder."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from resnetlab.config import ConfigError
from resnetlab.data.left_out import join_names, shorten
from resnetlab.data.split_names import SPLIT_NAMES, plain_name, split_of

SUFFIXES: Mapping[str, str] = {".csv": ",;\t", ".tsv": "\t"}
"""Suffixes of tables, with the characters that may separate their columns."""
FILE_COLUMNS = ("file", "filename", "file_name", "path", "image", "image_path")
CLASS_COLUMN, LABELS_COLUMNS, SPLIT_COLUMN = "label", ("labels", "tags"), "split"
WHOLE, ALL = "labels", "all"
"""Name of the table in a folder that has no table for each split, and the split of its images."""


def is_table(path: Path) -> bool:
    """Return whether a path has the suffix of a table."""
    return path.suffix.lower() in SUFFIXES


def find_tables(folder: Path) -> dict[str, Path]:
    """Return the tables of labels directly in a folder, by split: `labels.csv` (`all`), or `train.csv` and others.

    Tables of other names, and tables without the columns that are needed, are not tables of labels.

    Raises:
        ConfigError: If two tables are of one split, or one is of all images and another of a split.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        split = ALL if path.stem.lower() == WHOLE else split_of(path.stem)
        if not is_table(path) or split is None or not _has_columns(path):
            continue
        if split in found:
            raise _two_tables(folder, found[split], path, f"both of {'all images' if split == ALL else split}")
        found[split] = path
    if ALL in found and len(found) > 1:
        other = next(path for split, path in found.items() if split != ALL)
        raise _two_tables(folder, found[ALL], other, "of all images and of a split")
    if ALL in found:
        return {ALL: found[ALL]}
    return {split: found[split] for split in SPLIT_NAMES if split in found} if "train" in found else {}


def _two_tables(folder: Path, first: Path, second: Path, problem: str) -> ConfigError:
    return ConfigError(
        f"{folder}: the tables {shorten(first.name)} and {shorten(second.name)} are {problem}; rename one of them, "
        "give one table as data, or read folders with --split-folders"
    )


def _has_columns(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return find_columns(file.readline(1 << 16), path) is not None
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def find_columns(header: str, path: Path) -> tuple[str, str, str] | None:
    """Return the separator of the columns, and the names of the file and label columns; `None` if one is missing."""
    for delimiter in SUFFIXES[path.suffix.lower()]:
        names = next(csv.reader([header], delimiter=delimiter), [])
        files = [name for name in names if name.strip().lower() in FILE_COLUMNS]
        labels = [name for name in names if name.strip().lower() in (CLASS_COLUMN, *LABELS_COLUMNS)]
        if len(files) > 1 or len(labels) > 1:
            twice = files if len(files) > 1 else labels
            raise ConfigError(f"{path}: columns {join_names(twice, 60)} could be meant; rename all but one of them")
        if files and labels:
            return delimiter, files[0], labels[0]
    return None


def refuse_merged_splits(path: Path, cells: Sequence[str]) -> None:
    """Raise if two names in a column `split` mean one split: `dev` and `eval`; case and separators do not count."""
    first: dict[str | None, str] = {}
    for cell in dict.fromkeys(cells):
        split = split_of(cell)
        other = first.setdefault(split, cell)
        if plain_name(other) != plain_name(cell):
            raise ConfigError(
                f"{path}: the splits {shorten(other)} and {shorten(cell)} are both {split}; give each split "
                "one name: train, val or test"
            )
