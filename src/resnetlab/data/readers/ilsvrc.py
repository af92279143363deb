"""The layout of ILSVRC-2012: training folders by WordNet number, a flat validation folder, and a list of its labels.

Known lists, beside the folders or above them, as unpacked from the challenge's archives or from Kaggle's:
`ILSVRC2012_validation_ground_truth.txt` with `meta.mat` (the development kit), `LOC_val_solution.csv`, or a text file
of one WordNet number a line (`…synset_labels.txt`). Class names come from `meta.mat` or `LOC_synset_mapping.txt`.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnetlab.config import ConfigError

WNID = re.compile(r"n\d{8}")
VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
LISTS = ("LOC_val_solution.csv", "*synset_labels.txt", "ILSVRC2012_validation_ground_truth.txt")
NAMES = ("LOC_synset_mapping.txt", "meta.mat")
ABOVE = 4
"""Folders upwards in which lists are looked for: Kaggle's stand four above `val`."""


@dataclass(frozen=True)
class FlatValidation:
    """A flat validation folder, and the WordNet number of each of its images."""

    images: Sequence[Path]
    wnids: Sequence[str]


def is_validation(name: str) -> bool:
    """Say whether a file is called as a validation image of the challenge is."""
    return VALIDATION.fullmatch(name) is not None


def read_flat_validation(folder: Path) -> FlatValidation:
    """Read the labels of a flat validation folder; whatever else lies in it is left to the caller.

    Raises:
        ConfigError: where there is no list of labels, or it does not fit the images.
    """
    images = sorted(path for path in folder.iterdir() if is_validation(path.name))
    found = _find(folder, LISTS)
    if found is None:
        raise ConfigError(
            f"{folder}: validation images of ILSVRC-2012 without folders need a list of their labels; put one of "
            f"{', '.join(LISTS)} into {folder.parent}"
        )
    if found.suffix == ".csv":
        by_stem = _solution(found)
    else:
        rows = _text(found).split()
        if found.name == LISTS[2]:
            rows = _by_number(found, rows)
        by_stem = {f"ILSVRC2012_val_{number:08}": wnid for number, wnid in enumerate(rows, start=1)}
    missing = [path.name for path in images if path.stem not in by_stem]
    if missing:
        raise ConfigError(f"{found}: has no label for {missing[0]} ({len(missing):,} images of {len(images):,})")
    return FlatValidation(images, [by_stem[path.stem] for path in images])


def synset_names(folder: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    """Return a name for each WordNet number: its first synonym, with the number where two are called alike.

    Numbers stay where there is no list of names.
    """
    found = _find(folder, NAMES)
    if found is None:
        return tuple(wnids)
    names = dict(_meta(found)[1]) if found.suffix == ".mat" else _mapping(found)
    short = [names.get(wnid, wnid).partition(",")[0].strip() for wnid in wnids]
    often = Counter(short)
    return tuple(f"{name} ({wnid})" if often[name] > 1 else name for name, wnid in zip(short, wnids, strict=True))


def are_wnids(names: Sequence[str]) -> bool:
    """Say whether class folders are called by WordNet numbers."""
    return len(names) > 0 and all(WNID.fullmatch(name) for name in names)


def _find(folder: Path, patterns: Sequence[str]) -> Path | None:
    """Return the first list that is there: beside the folder, in a development kit beside it, or above."""
    for above in [folder, *folder.absolute().parents[: ABOVE + 1]]:
        for pattern in patterns:
            for place in (pattern, f"*devkit*/{pattern}", f"*devkit*/data/{pattern}"):
                found = next(iter(sorted(above.glob(place))), None)
                if found is not None:
                    return found
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not text in UTF-8 ({error.reason}, byte {error.start:,}); save it as such"
        ) from error


def _solution(path: Path) -> dict[str, str]:
    """Read Kaggle's list: `ILSVRC2012_val_00048981,n03995372 85 1 499 272`."""
    rows = list(csv.reader(_text(path).splitlines()))
    return {row[0]: row[1].split()[0] for row in rows[1:] if len(row) > 1 and row[1].split()}


def _mapping(path: Path) -> dict[str, str]:
    """Read `n01440764 tench, Tinca tinca`."""
    pairs = (line.partition(" ") for line in _text(path).splitlines())
    return {wnid: names for wnid, _, names in pairs}


def _by_number(path: Path, numbers: Sequence[str]) -> list[str]:
    """Turn the development kit's own numbers into WordNet's."""
    meta = _find(path.parent, NAMES[1:])
    if meta is None:
        raise ConfigError(f"{path}: its numbers mean something only with meta.mat of the same development kit")
    wnids, _ = _meta(meta)
    try:
        return [wnids[int(number)] for number in numbers]
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{path}: {error} is no number of {meta}") from error


def _meta(path: Path) -> tuple[Mapping[int, str], Mapping[str, str]]:
    """Read the development kit's table of synsets: number → WordNet number, and that → names."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        rows = list(_synsets(loadmat(path, squeeze_me=True)["synsets"]))
    except (OSError, ValueError, KeyError, TypeError, IndexError, MatReadError) as error:
        raise ConfigError(f"{path}: not the table of synsets of the development kit ({error})") from error
    return {number: wnid for number, wnid, _ in rows}, {wnid: words for _, wnid, words in rows}


def _synsets(table: Sequence) -> Iterator[tuple[int, str, str]]:
    for row in table:
        yield int(row[0]), str(row[1]), str(row[2])
