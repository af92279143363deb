"""Hints at runs and files whose name resembles one that does not exist."""

import re
from pathlib import Path

from resnetlab.extension import did_you_mean

RUNS = Path("runs")
"""Folder of the runs that `train` names."""


def suggest_path(path: Path, marker: str) -> str:
    """Return `; did you mean PATH?` with the most similar run or file beside a path; empty if none resembles it.

    A run whose name has every part of the given one resembles it: `photos-seed0` and `photos-resnet20-seed0`. A name
    without a folder is looked for in `runs` too.

    Args:
        path: A run directory, the file `marker` in one, or another file, that does not exist.
        marker: A file that each run directory to be suggested has.
    """
    in_run = path.name == marker
    wanted = path.parent if in_run else path
    for folder in (wanted.parent, RUNS) if wanted.parent == Path() else (wanted.parent,):
        if found := _most_similar(wanted, folder, marker):
            return f"; did you mean {folder / found / marker if in_run else folder / found}?"
    return ""


def _most_similar(wanted: Path, folder: Path, marker: str) -> str | None:
    try:
        names = sorted(entry.name for entry in folder.iterdir() if _is_candidate(entry, wanted.suffix, marker))
    except OSError:
        return None
    if hint := did_you_mean(wanted.name, names):
        return hint.removeprefix("; did you mean ").removesuffix("?")
    parts = _parts(wanted.name)
    longer = [name for name in names if len(parts) > 1 and parts <= _parts(name)]
    return min(longer, key=len, default=None)


def _parts(name: str) -> set[str]:
    return set(re.split(r"[-_.]", name.lower()))


def _is_candidate(entry: Path, suffix: str, marker: str) -> bool:
    """Return whether an entry is a run directory, or a file with the suffix of the wanted one."""
    return (entry / marker).is_file() or (suffix != "" and entry.suffix == suffix and entry.is_file())
