"""The parquet files of a data set and the split of each: by folder, by file name, or by `--split-folders`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

from resnetlab.config import ConfigError
from resnetlab.data.clutter import clutter_reason, may_be_image
from resnetlab.data.left_out import FOLDER, PARQUET, LeftOutCounter, LeftOutGroup, join_names, shorten
from resnetlab.data.split_names import (
    SPLIT_NAMES,
    file_stem,
    has_split_word,
    is_unsure,
    refuse_shared,
    shard_number,
    split_of,
    splits_of_files,
    suggest_option,
)

SUFFIX = ".parquet"
MAX_DEPTH = 3
"""Folders between the data and the parquet files: `default/train/0000.parquet`."""
MAX_FOLDERS, MAX_ENTRIES = 200, 64
"""Folders and entries of each that are examined for parquet files: a tree of images must not be read for that."""


@dataclass(frozen=True)
class ParquetFiles:
    """The parquet files of each split, in order, and what was left out."""

    splits: Mapping[str, list[Path]]
    sources: Mapping[str, str]
    """Folder or files of each split, for output."""
    warnings: tuple[str, ...] = ()
    left_out: tuple[LeftOutGroup, ...] = ()


def find_parquet_files(root: Path) -> list[Path]:
    """Return the parquet files of a folder, sorted: those directly in it, else those in its subfolders.

    Cloned repositories of Hugging Face have them in `data/`, converted ones in a folder for each split. A folder tree
    with images has no parquet files of its own, whatever metadata it comes with.

    Raises:
        OSError: If the folder cannot be read.
    """
    direct = _parquet_in(root)
    return direct or sorted(_nested_files(root)[0])


def find_split_files(path: Path, split_folders: Mapping[str, str]) -> ParquetFiles:
    """Return the parquet files of each split; `all` if nothing names a split.

    Args:
        path: A parquet file, or a folder.
        split_folders: Folder, file or pattern such as `train-*` for each split; names decide if empty.

    Raises:
        ConfigError: If names could mean two things, `train` is missing, or a file of a series is missing.
    """
    if path.is_file():
        if split_folders:
            raise ConfigError(f"{path}: is one file, so --split-folders cannot name its splits; give its folder")
        part, warnings = shard_number(path.name), ()
        if part is not None and part[1] > 1:
            warnings = (f"{shorten(path.name)} is one of {part[1]:,} files; give its folder to read all",)
        return ParquetFiles({"all": [path]}, {"all": path.name}, warnings)
    files = find_parquet_files(path)
    found = _chosen(path, split_folders) if split_folders else _by_name(path, files)
    refuse_shared(path, found.splits)
    for split_files in found.splits.values():
        _check_complete(path, split_files)
    return found


def _by_name(root: Path, files: Sequence[Path]) -> ParquetFiles:
    """Return the splits that the names of folders, or else of files, say."""
    parents = list(dict.fromkeys(file.parent for file in files))
    counter = LeftOutCounter()
    if parents == [root]:
        for name in sorted(entry.name for entry in os.scandir(root) if entry.is_dir()):
            if clutter_reason(name) is None:
                counter.add(FOLDER, f"{name}/")
    if len(parents) > 1 or (parents != [root] and splits_of_files([parents[0].name])[parents[0].name]):
        return _by_folder(root, files, parents)
    splits = splits_of_files([file.name for file in files])
    named = {file: split for file in files if (split := splits[file.name]) is not None}
    others = [file for file in files if file not in named]
    if not named:
        return _without_splits(root, files, counter)
    unclear = [file.name for file in others if _held_out_word(file.name)]
    if unclear:
        raise ConfigError(
            f"{root}: the name {unclear[0]} may say a split or not; say which files are which with "
            f"{suggest_option(_patterns(root, files))}"
        )
    for file in others:
        counter.add(PARQUET, file.name)
    by_split = {split: [file for file in files if named.get(file) == split] for split in SPLIT_NAMES}
    by_split = {split: split_files for split, split_files in by_split.items() if split_files}
    for split, split_files in by_split.items():
        stems = {file_stem(file.name): file.name for file in split_files}
        if len(stems) > 1:
            first, second = list(stems.values())[:2]
            raise ConfigError(
                f"{root}: {first} and {second} are both {split}; say which files are which with "
                f"{suggest_option(_patterns(root, files))}"
            )
    if "train" not in by_split:
        first = next(iter(by_split.values()))[0].name
        raise ConfigError(
            f"{root}: has {first} but no train-*.parquet; add it, give a single file, or say which files are which "
            f"with {suggest_option(_patterns(root, files))}"
        )
    unsure = [file.name for file in by_split.get("val", ()) if is_unsure(file_stem(file.name))]
    warnings = (f"{unsure[0]} is read as val; if it is the test split, say so with --split-folders",) if unsure else ()
    sources = {split: _source(root, split_files) for split, split_files in by_split.items()}
    return ParquetFiles(by_split, sources, warnings, counter.summary())


def _without_splits(root: Path, files: Sequence[Path], counter: LeftOutCounter) -> ParquetFiles:
    """Return all files as one pool, unless a name suggests otherwise."""
    stems = {file_stem(file.name): file.name for file in files}
    warnings = ()
    if len(stems) > 1:
        words = [file.name for file in files if has_split_word(file.name)]
        option = suggest_option(_patterns(root, files))
        if words:
            raise ConfigError(
                f"{root}: the name {words[0]} may say a split or not; say which files are which: {option}"
            )
        names = join_names(list(stems.values()), 60)
        warnings = (f"files with different names are read as one set without splits: {names} (--split-folders)",)
    return ParquetFiles({"all": list(files)}, {"all": _source(root, files)}, warnings, counter.summary())


def _by_folder(root: Path, files: Sequence[Path], parents: Sequence[Path]) -> ParquetFiles:
    """Return the splits that the names of the files' folders say."""
    splits = splits_of_files([parent.name for parent in parents])
    named = [splits[parent.name] for parent in parents]
    folders = [f"{parent.relative_to(root).as_posix()}/" for parent in parents]
    above = list(dict.fromkeys(parent.parent for parent in parents))
    if len(above) > 1 and None not in named:
        names = [f"{folder.relative_to(root).as_posix()}/" for folder in above]
        raise ConfigError(
            f"{root}: has parquet files of {len(above)} data sets ({join_names(names, 60)}); give one of them, such "
            f"as {above[0]}"
        )
    if len(above) > 1 or None in named:
        raise ConfigError(
            f"{root}: has parquet files in {len(parents)} folders ({join_names(folders, 60)}); give one of them, or "
            f"name the splits with {suggest_option(folder.rstrip('/') for folder in folders)}"
        )
    if len(set(named)) < len(named):
        split = next(split for split in named if named.count(split) > 1)
        both = [folder for folder, other in zip(folders, named, strict=True) if other == split]
        raise ConfigError(
            f"{root}: {both[0]} and {both[1]} are both {split}; say which is which with "
            f"{suggest_option(folder.rstrip('/') for folder in folders)}"
        )
    if "train" not in named:
        raise ConfigError(f"{root}: has {folders[0]} but no train/; add it, or give the folder {parents[0]}")
    by_split = {
        split: [file for file in files if splits[file.parent.name] == split] for split in SPLIT_NAMES if split in named
    }
    return ParquetFiles(by_split, {split: folders[named.index(split)] for split in by_split})


def _chosen(root: Path, split_folders: Mapping[str, str]) -> ParquetFiles:
    """Return the files that `--split-folders` names."""
    relative = {
        path: path.relative_to(root).as_posix()
        for path in sorted(root.rglob("*"))
        if _is_parquet(path.name) and path.is_file() and not any(map(clutter_reason, path.relative_to(root).parts))
    }
    known = list(relative)
    splits: dict[str, list[Path]] = {}
    used: dict[Path, str] = {}
    for split, name in split_folders.items():
        folder = root / name
        splits[split] = [
            path
            for path in known
            if path.parent == folder or fnmatch(relative[path], name) or fnmatch(relative[path], f"{name}{SUFFIX}")
        ]
        if not splits[split]:
            raise ConfigError(
                f"{root}: --split-folders {split}={name} matches no parquet file; name a folder, a file or a "
                f"pattern such as {split}-*; files: {join_names(list(relative.values()), 90) or 'none'}"
            )
        for path in splits[split]:
            if path in used:
                raise ConfigError(
                    f"{root}: --split-folders gives {relative[path]} to {used[path]} and to {split}; name other files"
                )
            used[path] = split
    counter = LeftOutCounter()
    for path in known:
        if path not in used:
            counter.add(PARQUET, relative[path])
    sources = {split: _source(root, files) for split, files in splits.items()}
    return ParquetFiles(splits, sources, (), counter.summary())


def _check_complete(root: Path, files: Sequence[Path]) -> None:
    """Raise if a file of a series is missing or has a copy, judging from names such as `train-00001-of-00005.parquet`.

    A hash after the numbers does not matter.
    """
    series: dict[Path, dict[str, dict[int, list[tuple[int, Path]]]]] = {}
    for file in files:
        if (found := shard_number(file.name)) is not None:
            counts = series.setdefault(file.parent, {}).setdefault(file_stem(file.name), {})
            counts.setdefault(found[1], []).append((found[0], file))
    for counts in (counts for stems in series.values() for counts in stems.values()):
        for count, numbered in counts.items():
            numbers = [number for number, _ in numbered]
            start = 1 if 0 not in numbers and count in numbers else 0
            missing = set(range(start, start + count)) - set(numbers)
            first = numbered[0][1]
            if missing:
                raise ConfigError(
                    f"{first.parent}: {first.name} is one of {count} files, of which {len(missing)} "
                    f"{'is' if len(missing) == 1 else 'are'} missing, the first with number {min(missing):05}; add them"
                )
            copies = [number for number in numbers if numbers.count(number) > 1]
            if copies:
                same = [file.name for number, file in numbered if number == copies[0]]
                raise ConfigError(f"{first.parent}: {same[0]} and {same[1]} are the same part; remove one of them")
        if len(counts) > 1:
            first, second = (numbered[0][1].name for numbered in list(counts.values())[:2])
            raise ConfigError(f"{root}: {first} and {second} belong to two sets of files; remove one set")


def _nested_files(root: Path) -> tuple[list[Path], bool]:
    """Return the parquet files in subfolders, and whether there is an image, in which case there are none."""
    found: list[Path] = []
    pending = [(root, 0)]
    num_visited = 0
    while pending and num_visited < MAX_FOLDERS:
        folder, depth = pending.pop(0)
        num_visited += 1
        with os.scandir(folder) as entries:
            sample = [entry for entry in islice(entries, MAX_ENTRIES) if clutter_reason(entry.name) is None]
        files = [entry.name for entry in sample if not entry.is_dir()]
        if any(map(_is_parquet, files)):
            found += _parquet_in(folder)
        elif folder != root and any(map(may_be_image, files)):
            return [], True
        if depth < MAX_DEPTH:
            pending += sorted((folder / entry.name, depth + 1) for entry in sample if entry.is_dir())
    return found, False


def _parquet_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _is_parquet(entry.name) and entry.is_file()]
    return [folder / name for name in sorted(names)]


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(SUFFIX) and clutter_reason(name) is None


def _held_out_word(name: str) -> bool:
    return any(split_of(word) in ("val", "test") for word in file_stem(name).split())


def _patterns(root: Path, files: Sequence[Path]) -> list[str]:
    """Return a name, or a pattern such as `train*`, for each series of files."""
    series: dict[str, list[str]] = {}
    for file in files:
        series.setdefault(file_stem(file.name), []).append(file.relative_to(root).as_posix())
    return [names[0] if len(names) == 1 else f"{_common_start(sorted(names))}*" for names in series.values()]


def _common_start(names: Sequence[str]) -> str:
    """Return the longest start of names that are sorted."""
    first, last = names[0], names[-1]
    length = next(
        (at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )
    return first[:length]


def _source(root: Path, files: Sequence[Path]) -> str:
    first = files[0].relative_to(root).as_posix()
    return first if len(files) == 1 else f"{first} and {len(files) - 1:,} more"
