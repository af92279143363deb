"""Counts of the files that a listing leaves out: by reason, by name suffix and by folder, with examples."""

import re
from pathlib import Path

from resnetlab.data.images.file_types import FileType
from resnetlab.data.left_out import MAX_EXAMPLES, LeftOutGroup

MAX_KINDS = 5
"""Number of suffixes that a line names."""
MAX_LABEL = 16
"""Letters of a suffix or file name in a line."""


class LeftOut:
    """Files that are not read as images: their number by kind and suffix, over all and in each folder."""

    def __init__(self) -> None:
        self._counts: dict[tuple[FileType, str], int] = {}
        self._first: dict[FileType, str] = {}
        self._by_folder: dict[str, dict[tuple[FileType, str], int]] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __len__(self) -> int:
        """Return the number of files."""
        return sum(self._counts.values())

    def add(self, path: Path, kind: FileType) -> None:
        """Count a file, or a folder, that is left out."""
        key = (kind, _label(path))
        self._counts[key] = self._counts.get(key, 0) + 1
        self._first.setdefault(kind, path.name)
        for folder in (str(path.parent), *map(str, path.parent.parents)):
            counts = self._by_folder.setdefault(folder, {})
            counts[key] = counts.get(key, 0) + 1

    def groups(self) -> tuple[LeftOutGroup, ...]:
        """Return the files that are not images as one group, and those of each kind with a remedy as another."""
        others = {key: count for key, count in self._counts.items() if not key[0].has_own_line}
        groups = []
        if others:
            line = f"ignored files that are not images: {_describe_suffixes(others)}"
            examples = tuple(name for kind, name in self._first.items() if not kind.has_own_line)[:MAX_EXAMPLES]
            groups.append(LeftOutGroup("files that are not images", sum(others.values()), examples, line, True))
        for kind in sorted({kind for kind, _ in self._counts if kind.has_own_line}, key=lambda kind: kind.name):
            counts = {key: count for key, count in self._counts.items() if key[0] == kind}
            example = _shorten(self._first[kind], 2 * MAX_LABEL)
            line = f"ignored {_describe_suffixes(counts)} ({kind.of_many()}), such as {example}"
            groups.append(LeftOutGroup(kind.of_many(), sum(counts.values()), (self._first[kind],), line, True))
        return tuple(groups)

    def lines(self) -> tuple[str, ...]:
        """Return the line of each group."""
        return tuple(group.line for group in self.groups())

    def inside(self, folder: Path) -> str:
        """Return what was left out in a folder and its subfolders, as one phrase, or an empty string."""
        counts = self._by_folder.get(str(folder), {})
        phrases = []
        for kind in dict.fromkeys(kind for kind, _ in counts):
            suffixes = _describe_suffixes({key: count for key, count in counts.items() if key[0] == kind})
            phrases.append(f"{suffixes} ({kind.of_many()})")
        more = f", and {len(phrases) - 3} other kinds" if len(phrases) > 3 else ""
        return ", ".join(phrases[:3]) + more


def _describe_suffixes(counts: dict[tuple[FileType, str], int]) -> str:
    """Return the number of files with each suffix: `3 .csv, 12 .txt`."""
    by_label: dict[str, int] = {}
    for (_, label), count in counts.items():
        by_label[label] = by_label.get(label, 0) + count
    labels = sorted(by_label)
    if len(labels) > MAX_KINDS:  # the most frequent ones
        labels = sorted(sorted(labels, key=lambda label: -by_label[label])[:MAX_KINDS])
    rest = sum(by_label.values()) - sum(by_label[label] for label in labels)
    return ", ".join(f"{by_label[label]:,} {label}" for label in labels) + (f", {rest:,} others" if rest else "")


def _label(path: Path) -> str:
    """Return the suffix of a file, or its name if it has none; numbers count as one suffix."""
    if path.is_dir():
        return f"{_shorten(path.name, MAX_LABEL)}/"
    suffix = path.suffix.lower()
    return ".[number]" if re.fullmatch(r"\.\d+", suffix) else _shorten(suffix or path.name, MAX_LABEL)


def _shorten(name: str, room: int) -> str:
    """Return a printable name of at most `room` letters; an ellipsis replaces its middle if it is longer."""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return name if len(name) <= room else f"{name[: room // 2]}…{name[-(room // 2 - 1) :]}"
