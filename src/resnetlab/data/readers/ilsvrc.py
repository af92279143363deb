"""The layout of ILSVRC-2012: training folders by WordNet ID, a flat validation folder, and a list of its labels.

The list is searched beside the folders and above them, where the challenge's or Kaggle's archives put it:
`ILSVRC2012_validation_ground_truth.txt` with `meta.mat` (the development kit), `LOC_val_solution.csv`, or a text file
with one WordNet ID a line (`…synset_labels.txt`). Class names come from `meta.mat` or `LOC_synset_mapping.txt`.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnetlab.config import ConfigError

WNID = re.compile(r"n\d{8}")
VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
LABEL_FILES = ("LOC_val_solution.csv", "*synset_labels.txt", GROUND_TRUTH)
NAME_FILES = ("LOC_synset_mapping.txt", "meta.mat")
NUM_PARENTS = 5
"""Parent folders that are searched for these files; Kaggle's are four above `val`."""


@dataclass(frozen=True)
class FlatValidation:
    """The images of a flat validation folder, and the WordNet ID of each."""

    images: Sequence[Path]
    wnids: Sequence[str]


def is_validation_name(name: str) -> bool:
    """Return whether a file has the name of a validation image of the challenge."""
    return VALIDATION_NAME.fullmatch(name) is not None


def read_flat_validation(folder: Path) -> FlatValidation:
    """Read the labels of a flat validation folder; files that are not validation images are skipped.

    Raises:
        ConfigError: If there is no list of labels, or the list lacks an image.
    """
    images = sorted(path for path in folder.iterdir() if is_validation_name(path.name))
    path = _find_file(folder, LABEL_FILES)
    if path is None:
        raise ConfigError(
            f"{folder}: validation images of ILSVRC-2012 without class folders need a list of their labels; put one of "
            f"{', '.join(LABEL_FILES)} into {folder.parent}"
        )
    if path.suffix == ".csv":
        wnid_of = _read_solution(path)
    else:
        rows = _read_text(path).split()
        if path.name == GROUND_TRUTH:
            rows = _to_wnids(path, rows)
        wnid_of = {f"ILSVRC2012_val_{number:08}": wnid for number, wnid in enumerate(rows, start=1)}
    missing = [image.name for image in images if image.stem not in wnid_of]
    if missing:
        raise ConfigError(
            f"{path}: has no label for {missing[0]} ({len(missing):,} images of {len(images):,}); add the labels, or "
            "remove the images"
        )
    return FlatValidation(images, [wnid_of[image.stem] for image in images])


def synset_names(folder: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    """Return a class name for each WordNet ID: its first synonym, followed by the ID if two names are equal.

    Without a list of names, the IDs are the names.
    """
    path = _find_file(folder, NAME_FILES)
    if path is None:
        return tuple(wnids)
    names = dict(_read_meta(path)[1]) if path.suffix == ".mat" else _read_mapping(path)
    short = [names.get(wnid, wnid).partition(",")[0].strip() for wnid in wnids]
    counts = Counter(short)
    return tuple(f"{name} ({wnid})" if counts[name] > 1 else name for name, wnid in zip(short, wnids, strict=True))


def are_wnids(names: Sequence[str]) -> bool:
    """Return whether all class folders have WordNet IDs as names."""
    return len(names) > 0 and all(WNID.fullmatch(name) for name in names)


def _find_file(folder: Path, patterns: Sequence[str]) -> Path | None:
    """Return the first file that matches a pattern in a folder, in a development kit inside it, or in its parents."""
    for parent in [folder, *folder.absolute().parents[:NUM_PARENTS]]:
        for pattern in patterns:
            for location in (pattern, f"*devkit*/{pattern}", f"*devkit*/data/{pattern}"):
                path = next(iter(sorted(parent.glob(location))), None)
                if path is not None:
                    return path
    return None


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason}, byte {error.start:,}); save it as UTF-8") from error


def _read_solution(path: Path) -> dict[str, str]:
    """Read Kaggle's list, with lines such as `ILSVRC2012_val_00048981,n03995372 85 1 499 272`."""
    rows = list(csv.reader(_read_text(path).splitlines()))
    return {row[0]: row[1].split()[0] for row in rows[1:] if len(row) > 1 and row[1].split()}


def _read_mapping(path: Path) -> dict[str, str]:
    """Read Kaggle's names, with lines such as `n01440764 tench, Tinca tinca`."""
    pairs = (line.partition(" ") for line in _read_text(path).splitlines())
    return {wnid: names for wnid, _, names in pairs}


def _to_wnids(path: Path, numbers: Sequence[str]) -> list[str]:
    """Convert the development kit's class numbers to WordNet IDs."""
    meta = _find_file(path.parent, NAME_FILES[1:])
    if meta is None:
        raise ConfigError(
            f"{path}: its class numbers need meta.mat of the same development kit; put it beside the file"
        )
    wnids, _ = _read_meta(meta)
    try:
        return [wnids[int(number)] for number in numbers]
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"{path}: {error} is not a class number of {meta}; unpack the development kit again"
        ) from error


def _read_meta(path: Path) -> tuple[Mapping[int, str], Mapping[str, str]]:
    """Read the development kit's table of synsets; return WordNet ID by class number, and names by WordNet ID."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        rows = list(_synset_rows(loadmat(path, squeeze_me=True)["synsets"]))
    except (OSError, ValueError, KeyError, TypeError, IndexError, MatReadError) as error:
        raise ConfigError(
            f"{path}: not the table of synsets of the development kit ({error}); unpack it again"
        ) from error
    return {number: wnid for number, wnid, _ in rows}, {wnid: names for _, wnid, names in rows}


def _synset_rows(table: Sequence) -> Iterator[tuple[int, str, str]]:
    for row in table:
        yield int(row[0]), str(row[1]), str(row[2])
