"""Remedies for data in containers and layouts that are not read."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from resnetlab.data.clutter import clutter_reason
from resnetlab.data.images.file_types import KNOWN_SUFFIXES
from resnetlab.data.left_out import shorten
from resnetlab.data.readers.split_folders import folders_in
from resnetlab.data.split_names import SPLIT_OF_WORD

ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")
TABLES = (".csv", ".tsv", ".jsonl", ".xlsx", ".xls", ".json")
EXPORT = "save the images as files in class folders"
UNREAD: Mapping[str, str] = {
    ".arrow": "save it as parquet, with to_parquet() of the datasets package",
    ".tar": "without the index of resnetlab data pack they are not read; unpack them into class folders",
    ".tfrecord": EXPORT,
    ".tfrecords": EXPORT,
    ".h5": EXPORT,
    ".hdf5": EXPORT,
    ".npz": EXPORT,
    ".npy": EXPORT,
    ".mat": EXPORT,
    ".pkl": EXPORT,
    ".pickle": EXPORT,
    ".pt": EXPORT,
    ".mdb": EXPORT,
    ".lmdb": EXPORT,
    ".rec": EXPORT,
    ".feather": "save it as parquet",
    ".csv": "name its columns file and label (one class) or labels (several), and give it: --data TABLE",
    ".tsv": "name its columns file and label (one class) or labels (several), and give it: --data TABLE",
}
"""Remedy for each suffix of containers that are not read."""
MAX_FOLDERS = 50
"""Folders in the data that are examined."""
MAX_ENTRIES = 10_000
"""Entries of a folder that are examined."""


def file_remedy(path: Path) -> str:
    """Return `: REMEDY` for a file that is no data set, or an empty string."""
    return f": {UNREAD[path.suffix.lower()]}" if path.suffix.lower() in UNREAD else ""


def container_remedy(folder: Path) -> str:
    """Return what a folder without images, or a folder in it, holds instead and what to do; an empty string if unknown.

    Known are data sets of Hugging Face's `save_to_disk`, WebDataset's tar files, archives and common containers.
    """
    try:
        folders = [folder, *folders_in(folder)[:MAX_FOLDERS]]
    except OSError:
        return ""
    return next((remedy for path in folders if (remedy := _remedy(path))), "")


def _remedy(folder: Path) -> str:
    """Return the remedy for the files directly in a folder, as a clause, or an empty string."""
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return _saved_to_disk(folder)
        with os.scandir(folder) as entries:
            files = sorted(
                entry.name for _, entry in zip(range(MAX_ENTRIES), entries, strict=False) if not entry.is_dir()
            )
    except OSError:
        return ""
    files = [name for name in files if clutter_reason(name) is None]
    archives = [name for name in files if name.lower().endswith(ARCHIVES)]
    if archives:
        return f"it holds {shorten(archives[0])}: unpack the archive, and give the unpacked folder"
    counts = Counter(_suffix(name) for name in files)
    for suffix, count in counts.most_common():
        if suffix in UNREAD:
            first = next(name for name in files if _suffix(name) == suffix)
            return f"it holds {count:,} {suffix} file{'' if count == 1 else 's'} ({shorten(first)}): {UNREAD[suffix]}"
    return ""


def table_remedy(folder: Path, root: Path) -> str:
    """Return `; TABLE has no columns …` if a table that is not read as labels lies beside the images, or nothing."""
    for parent in dict.fromkeys((folder, root)):
        try:
            names = sorted(path.name for path in parent.iterdir() if path.suffix.lower() in TABLES)
        except OSError:
            continue
        if names:
            return (
                f"; {shorten(names[0])} is not read as labels: give a .csv with the columns file and label or labels "
                "as --data FILE or under the name labels.csv"
            )
    return ""


def one_class_remedy(folder: Path) -> str:
    """Return a hint at the folder of the data set if `folder` is one of several class folders, or nothing."""
    parent = folder.absolute().parent
    try:
        others = [path for path in parent.iterdir() if path.is_dir() and path.name != folder.absolute().name]
    except OSError:
        return ""
    if not any(path.suffix.lower() in KNOWN_SUFFIXES for other in others[:MAX_ENTRIES] for path in _first(other)):
        return ""
    is_split = parent.name.lower() in SPLIT_OF_WORD
    root = folder.parent.parent if is_split else folder.parent
    return f"; it looks like one class of {shorten(str(root))}: give that folder"


def _first(folder: Path) -> list[Path]:
    """Return a few entries of a folder; none if it cannot be read."""
    try:
        return [path for path, _ in zip(folder.iterdir(), range(5), strict=False)]
    except OSError:
        return []


def _suffix(name: str) -> str:
    """Return the suffix of a file's name in lower case, also before a number as in `a.tfrecord-00000-of-00001`."""
    return re.sub(r"-\d+-of-\d+$", "", Path(name).suffix.lower())


def _saved_to_disk(folder: Path) -> str:
    """Return the remedy for a data set saved with `save_to_disk`."""
    load = f'from datasets import load_from_disk; d = load_from_disk("{shorten(str(folder), 200)}")'
    if (folder / "dataset_dict.json").is_file():
        write = '[s.to_parquet(f"{n}.parquet") for n, s in d.items()]'
    else:
        write = 'd.to_parquet("train.parquet")'
    return (
        "it was saved with save_to_disk (Arrow files), which is not read; write it as parquet into another folder: "
        f"{load}; {write}"
    )
