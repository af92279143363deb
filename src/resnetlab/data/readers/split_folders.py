"""The folder of each split in a folder tree: by name, or by `--split-folders`; what could be two things is refused."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnetlab.config import ConfigError
from resnetlab.data.clutter import clutter_reason, folder_reason, may_be_image
from resnetlab.data.left_out import join_names, shorten
from resnetlab.data.split_names import (
    SPLIT_NAMES,
    first_word_split,
    is_unsure,
    refuse_shared,
    split_of,
    suggest_option,
)

CLASSES_OPTION = "--split-folders all=."
"""The option that says that the folders of the root are classes."""
MIN_SHARED = 2
"""Class folders that two folders must share to look like splits: `cat/images/` and `dog/images/` share one."""


@dataclass(frozen=True)
class SplitFolders:
    """The folder of each split; `all` for a folder of classes without splits."""

    folders: Mapping[str, Path]
    others: tuple[Path, ...] = ()
    """Folders beside the splits."""
    warnings: tuple[str, ...] = ()

    def sources(self, root: Path) -> dict[str, str]:
        """Return the folder of each split relative to the root; empty for the root itself."""
        relative = {split: folder.relative_to(root).as_posix() for split, folder in self.folders.items()}
        return {split: f"{name}/" for split, name in relative.items() if name != "."}


@dataclass(frozen=True)
class _Content:
    has_image: bool
    """Whether an image lies directly in the folder; its other entries are not read then."""
    folders: frozenset[str]
    """Names of its folders without case."""

    def looks_like(self, classes: frozenset[str]) -> bool:
        """Return whether the folder holds most of these class folders and no image directly."""
        shared = len(self.folders & classes)
        return not self.has_image and shared >= min(MIN_SHARED, len(self.folders)) and 2 * shared > len(self.folders)


def find_split_folders(root: Path, folders: Sequence[Path], given: Mapping[str, str]) -> SplitFolders:
    """Return the folder of each split.

    Args:
        root: The folder tree.
        folders: The folders in it, without those that are left out.
        given: Folder of each split relative to the root, from `--split-folders`; names decide if empty.

    Raises:
        ConfigError: If a given folder does not exist, two folders name one split, `train` is missing, or folders look
            like splits but have no known name; the message names the option.
        OSError: If a folder cannot be read.
    """
    if given:
        return _given_folders(root, folders, given)
    named = [path for path in folders if split_of(path.name) is not None]
    others = [path for path in folders if path not in named]
    if not named:
        _refuse_unknown_splits(root, folders)
        _refuse_flat_splits(root, folders)
        return SplitFolders({"all": root})
    contents = {path: _content(path) for path in folders}
    # A class may be called "train", beside "bus" and "car". A folder is a split if it has subfolders.
    if others and not any(_has_folder(path) for path in named):
        _refuse_flat_splits(root, folders)
        return SplitFolders({"all": root}, warnings=tuple(map(_class_warning, named)))
    _refuse_mixed(root, named, others, contents)
    by_split: dict[str, Path] = {}
    for path in named:
        split = split_of(path.name) or ""
        if split in by_split:
            raise ConfigError(
                f"{root}: {by_split[split].name}/ and {path.name}/ are both {split}; remove one of them, or say which "
                f"is which with {suggest_option(path.name for path in named)}"
            )
        by_split[split] = path
    if "train" not in by_split:
        raise ConfigError(
            f"{root}: has {named[0].name}/ but no train/; add it, or give a folder of classes without splits, or name "
            f"the folders with {suggest_option(path.name for path in folders)}"
        )
    _refuse_alike(root, by_split, others, contents)
    unsure = [path.name for path in by_split.values() if is_unsure(path.name)]
    warnings = [f"{name}/ is read as val; if it is the test split, say so with --split-folders" for name in unsure]
    found = {split: by_split[split] for split in SPLIT_NAMES if split in by_split}
    refuse_shared(root, {split: [folder] for split, folder in found.items()})
    return SplitFolders(found, tuple(others), tuple(warnings))


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without clutter."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and clutter_reason(entry.name) is None)
    return [folder / name for name in names]


def class_tree_option(root: Path) -> str | None:
    """Return the option that reads a folder as a tree of classes; `None` if fewer than two folders look like classes.

    Those are folders of images in the root, but for ones named after splits, or in the folder `train`.
    """
    folders = folders_in(root)
    splits = [path for path in folders if split_of(path.name) is not None]
    for inside, option in (
        ([path for path in folders if path not in splits], CLASSES_OPTION),
        *((folders_in(path), suggest_option(split.name for split in splits)) for path in splits),
    ):
        if sum(_content(path).has_image for path in inside if folder_reason(path) is None) > 1:
            return option
    return None


def _given_folders(root: Path, folders: Sequence[Path], given: Mapping[str, str]) -> SplitFolders:
    found = {split: root / name for split, name in given.items()}
    for split, folder in found.items():
        if not folder.is_dir():
            raise ConfigError(
                f"{root}: --split-folders {split}={given[split]} names no folder there; folders: "
                f"{join_names([path.name for path in folders], 90) or 'none'}"
            )
    refuse_shared(root, {split: [folder] for split, folder in found.items()})
    paths = list(found.values())
    for folder in paths:
        if any(folder != other and folder.resolve().is_relative_to(other.resolve()) for other in paths):
            raise ConfigError(f"{root}: --split-folders names {folder.name} and a folder around it; name separate ones")
    used = [folder.relative_to(root).parts for folder in paths]
    others = [path for path in folders if not any(parts[:1] in ((), (path.name,)) for parts in used)]
    return SplitFolders(found, tuple(others))


def _refuse_unknown_splits(root: Path, folders: Sequence[Path]) -> None:
    """Raise if every folder holds folders of the same names and no image: splits with unknown names.

    Folders without images in their folders, such as `labels/` with text files, do not count.
    """
    contents: dict[Path, _Content] = {}
    for path in folders:
        content = _content(path)
        if content.has_image:
            return
        if content.folders and any(_content(child).has_image for child in folders_in(path)):
            contents[path] = content
    if len(contents) < 2:
        return
    classes = max((content.folders for content in contents.values()), key=len)
    if len(classes) >= MIN_SHARED and all(content.looks_like(classes) for content in contents.values()):
        names = [path.name for path in contents]
        splits = sorted(name for name in classes if split_of(name) is not None)
        if len(splits) >= MIN_SHARED:
            raise ConfigError(
                f"{root}: {join_names([f'{name}/' for name in names], 60)} hold the splits {join_names(splits, 40)}; "
                f"splits inside class folders are not read: move them to {splits[0]}/{names[0]}/ …, give one of "
                f"these folders if they are data sets, or read all images as classes with {CLASSES_OPTION}"
            )
        raise ConfigError(
            f"{root}: {join_names([f'{name}/' for name in names], 60)} look like splits, because all hold the folders "
            f"{join_names(sorted(classes), 40)}; name the splits with {suggest_option(names[:3])}, or, if they are "
            f"classes, give {CLASSES_OPTION}"
        )


def _refuse_flat_splits(root: Path, folders: Sequence[Path]) -> None:
    """Raise if several folders of images are named as splits, or begin with the words of two: `train` and `test1`."""
    said = {path: split for path in folders if (split := first_word_split(path.name)) is not None}
    said = {path: split for path, split in said.items() if _content(path).has_image}
    if len(set(said.values())) < 2 and sum(split_of(path.name) is not None for path in said) < 2:
        return
    names = [path.name for path in said]
    raise ConfigError(
        f"{root}: {join_names([f'{name}/' for name in names], 60)} may be splits or classes: they hold images and no "
        f"class folders; give {CLASSES_OPTION} if they are classes, else sort the images of each into class folders or "
        "give a table of labels"
    )


def _class_warning(folder: Path) -> str:
    name = shorten(folder.name)
    return f"{name}/ is read as a class; if it is a split, sort its images into class folders"


def _refuse_alike(
    root: Path, by_split: Mapping[str, Path], others: Sequence[Path], contents: Mapping[Path, _Content]
) -> None:
    """Raise if a folder beside the splits holds the same class folders: a split with an unknown name."""
    named = list(by_split.values())
    classes = frozenset[str]().union(*(contents[path].folders for path in named))
    alike = [path for path in others if len(contents[path].folders) > 1 and contents[path].looks_like(classes)]
    if alike:
        names = [path.name for path in (named if "test" in by_split else (*named, *alike))]
        raise ConfigError(
            f"{root}: {alike[0].name}/ holds the same class folders as {by_split['train'].name}/, but its name is no "
            f"known split; name the splits to read with {suggest_option(names)}"
        )


def _refuse_mixed(root: Path, named: Sequence[Path], others: Sequence[Path], contents: Mapping[Path, _Content]) -> None:
    """Raise if folders named after splits hold images directly, like the folders beside them: classes or splits?"""
    if not all(contents[path].has_image for path in named) or not any(contents[path].has_image for path in others):
        return
    raise ConfigError(
        f"{root}: {named[0].name}/ may be a split or a class beside {others[0].name}/: it holds images and folders; "
        f"give {CLASSES_OPTION} if it is a class, or {suggest_option(path.name for path in named)}"
    )


def _content(folder: Path) -> _Content:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if clutter_reason(entry.name) is not None:
                continue
            if entry.is_dir():
                names.append(entry.name.casefold())
            elif may_be_image(entry.name):
                return _Content(True, frozenset(names))
    return _Content(False, frozenset(names))


def _has_folder(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.is_dir() and clutter_reason(entry.name) is None for entry in entries)
