"""Listings of folder trees: with splits, `train/cat/0031.jpg`, or with classes only, `cat/0031.jpg`."""

import os
import unicodedata
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from resnetlab.config import ConfigError
from resnetlab.data.images.file_types import FileType, left_out_type
from resnetlab.data.images.left_out import LeftOut
from resnetlab.data.images.packed_sequences import PackedPaths, PackedStrings, concatenate
from resnetlab.data.listing import DatasetListing, SplitListing, check_classes
from resnetlab.data.readers.ilsvrc import are_wnids, is_validation_name, read_flat_validation, synset_names

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Split of each folder name, in lower case."""
IGNORED_NAMES = {"__macosx", "thumbs.db", "desktop.ini"}
"""Files of Windows and macOS, in lower case. Hidden files are ignored as well."""
EXPECTED_LAYOUT = "expected class folders, such as PATH/train/cat/1.jpg and PATH/val/cat/2.jpg, or PATH/cat/1.jpg"


@dataclass
class _Tree:
    """The root of a folder tree, and counts of the files that are left out."""

    root: Path
    ignored: LeftOut = field(default_factory=LeftOut)
    """Files that are not read as images."""
    misplaced: dict[str, int] = field(default_factory=dict)
    """Number of images beside the class folders instead of inside one, by folder."""

    def name(self, path: Path) -> str:
        """Return a printable path relative to the root, equal on all file systems."""
        return printable_name(str(path.relative_to(self.root).as_posix()))


def list_folder(root: Path) -> DatasetListing:
    """List every image of a folder tree by split and class, without opening any image.

    The layout of ILSVRC-2012 is supported, with its flat validation folder and its class names (`readers/ilsvrc.py`).
    Images in subfolders of a class folder belong to that class, and links are followed. Class names are sorted, in
    Unicode form NFC.

    Raises:
        ConfigError: If the layout is unknown, a class of `train` is empty, `val` or `test` has a class that `train`
            lacks, there are fewer than two classes, two classes have the same name, or a folder cannot be read.
    """
    tree = _Tree(root)
    try:
        folders = _split_folders(tree)
        images = {split: _images_by_class(tree, folder) for split, folder in folders.items()}
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror})") from error
    folder_names = tuple(sorted({name for by_class in images.values() for name in by_class}))
    _check_layout(tree, folders, images)
    labels = {name: label for label, name in enumerate(folder_names)}
    classes = synset_names(root, folder_names) if are_wnids(folder_names) else folder_names
    splits = {split: _split_listing(tree, by_class, labels) for split, by_class in images.items()}
    listing = DatasetListing(classes, splits, _warnings(tree))
    return DatasetListing(classes, listing.splits, listing.warnings + check_classes(listing))


def printable_name(name: str) -> str:
    """Return a file's name in Unicode form NFC; bytes that are not UTF-8 become replacement characters."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))


def _split_folders(tree: _Tree) -> dict[str, Path]:
    """Return the folder of each split; `all` if the root itself holds the class folders."""
    folders = [path for path in _visible(tree.root) if path.is_dir()]
    named = [path for path in folders if path.name.lower() in SPLITS]
    others = [path for path in folders if path not in named]
    # A class may be called "train", beside "bus" and "car". A folder is a split if it has subfolders.
    if not named or (others and not any(child.is_dir() for path in named for child in _visible(path))):
        return {"all": tree.root}
    split_folders: dict[str, Path] = {}
    for path in named:
        split = SPLITS[path.name.lower()]
        if split in split_folders:
            raise ConfigError(
                f"{tree.root}: {split_folders[split].name}/ and {path.name}/ are both {split}; remove one of them"
            )
        split_folders[split] = path
    if "train" not in split_folders:
        raise ConfigError(
            f"{tree.root}: has {named[0].name}/ but no train/; add it, or give a folder of classes without splits"
        )
    for path in _visible(tree.root):
        if path not in named:
            _count_left_out(tree, path)
    return {split: split_folders[split] for split in ("train", "val", "test") if split in split_folders}


def _images_by_class(tree: _Tree, folder: Path) -> dict[str, PackedPaths]:
    """Return the images of each class folder, by class name."""
    if _is_flat_validation(folder):
        by_wnid = _flat_validation_by_wnid(tree, folder)
        return {name: PackedPaths.from_paths(tree.root, paths) for name, paths in by_wnid.items()}
    images: dict[str, PackedPaths] = {}
    origin: dict[str, Path] = {}
    for path in _visible(folder):
        if not path.is_dir():
            _count_left_out(tree, path)
            continue
        name = printable_name(path.name)
        if name in images:
            raise ConfigError(
                f"{tree.root}: two folders are both called {tree.name(path)} (written in different Unicode forms: "
                f"{origin[name].name!a} and {path.name!a}); merge them"
            )
        origin[name] = path
        images[name] = PackedPaths.from_paths(tree.root, _images(tree, path, frozenset()))
    return images


def _is_flat_validation(folder: Path) -> bool:
    """Return whether a folder holds ILSVRC validation images directly, and no images in subfolders."""
    entries = _visible(folder)
    others = [path for path in entries if not is_validation_name(path.name)]
    if len(others) == len(entries):
        return False
    return not any(any(_images(_Tree(folder), path, frozenset())) for path in others if path.is_dir())


def _flat_validation_by_wnid(tree: _Tree, folder: Path) -> dict[str, list[Path]]:
    """Return the images of ILSVRC's flat validation folder by WordNet ID; other files have no label."""
    for path in _visible(folder):
        if not is_validation_name(path.name):
            _count_left_out(tree, path)
    flat, by_wnid = read_flat_validation(folder), {}
    for path, wnid in zip(flat.images, flat.wnids, strict=True):
        by_wnid.setdefault(wnid, []).append(path)
    return by_wnid


def _images(tree: _Tree, folder: Path, parents: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Yield the images of a class folder and its subfolders; a link to one of the `parents` (a loop) is skipped."""
    status = folder.stat()
    inode = (status.st_dev, status.st_ino)
    if inode in parents:
        return
    for path in _visible(folder):
        if path.is_dir():
            yield from _images(tree, path, parents | {inode})
        elif (kind := left_out_type(path)) is None:
            yield path
        else:
            tree.ignored.add(path, kind)


def _visible(folder: Path) -> list[Path]:
    """Return the entries of a folder, sorted by name, without hidden files and `IGNORED_NAMES`."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    return [folder / name for name in sorted(names) if not name.startswith(".") and name.lower() not in IGNORED_NAMES]


def _count_left_out(tree: _Tree, path: Path) -> None:
    """Count an entry outside any class folder."""
    kind = FileType("folder") if path.is_dir() else left_out_type(path)
    if kind is not None:
        tree.ignored.add(path, kind)
    else:
        parent = str(path.parent)
        tree.misplaced[parent] = tree.misplaced.get(parent, 0) + 1


def _check_layout(tree: _Tree, folders: dict[str, Path], images: dict[str, dict[str, PackedPaths]]) -> None:
    """Raise if a split has no images, no class folders, or (for training) a class without images."""
    for split, folder in folders.items():
        where = str(folder)
        if any(images[split].values()):
            for name, paths in images[split].items():
                if not paths and split in ("train", "all"):
                    found = tree.ignored.inside(folder / name)
                    but = f" that is read, but {found}" if found else ""
                    raise ConfigError(f"{folder / name}: this class has no image{but}; add some, or remove the folder")
        elif where in tree.misplaced:
            raise ConfigError(
                f"{where}: holds {tree.misplaced[where]:,} images directly, without class folders; {EXPECTED_LAYOUT}"
            )
        else:
            found = tree.ignored.inside(folder)
            but = f" that is read, but {found}" if found else ""
            remedy = EXPECTED_LAYOUT if split in ("train", "all") else "add some, or remove the folder"
            raise ConfigError(f"{where}: has no image{but}; {remedy}")


def _split_listing(tree: _Tree, by_class: dict[str, PackedPaths], label_of: dict[str, int]) -> SplitListing:
    paths = concatenate([by_class[name] for name in sorted(by_class)])
    labels = array("q")
    for name in sorted(by_class):
        labels.extend([label_of[name]] * len(by_class[name]))
    return SplitListing(PackedStrings.from_strings(tree.name(path) for path in paths), paths, labels)


def _warnings(tree: _Tree) -> tuple[str, ...]:
    warnings = list(tree.ignored.lines())
    for folder, count in tree.misplaced.items():
        warnings.append(f"ignored {count:,} images directly in {folder}, outside any class folder")
    return tuple(warnings)
