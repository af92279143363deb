"""Listings of folder trees: with splits, `train/cat/0031.jpg`, or with classes only, `cat/0031.jpg`."""

import os
import unicodedata
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from resnetlab.config import ConfigError
from resnetlab.data.clutter import clutter_reason, find_overlays, folder_reason
from resnetlab.data.images.file_types import left_out_type
from resnetlab.data.images.left_out import LeftOut
from resnetlab.data.images.packed_sequences import PackedPaths, PackedStrings, concatenate
from resnetlab.data.left_out import FOLDER, OUTPUT, OUTSIDE, LeftOutCounter, LeftOutGroup
from resnetlab.data.listing import DatasetListing, SplitListing, check_classes
from resnetlab.data.readers.ilsvrc import are_wnids, is_validation_name, read_flat_validation, synset_names
from resnetlab.data.readers.split_folders import CLASSES_OPTION, SplitFolders, find_split_folders
from resnetlab.data.readers.unread import container_remedy, one_class_remedy, table_remedy
from resnetlab.data.readers.wrapped_folders import refuse_wrapped

EXPECTED_LAYOUT = "expected class folders, such as PATH/train/cat/1.jpg and PATH/val/cat/2.jpg, or PATH/cat/1.jpg"


@dataclass
class _Tree:
    """The root of a folder tree, and counts of the files that are left out."""

    root: Path
    ignored: LeftOut = field(default_factory=LeftOut)
    """Files that are not read as images."""
    misplaced: dict[str, int] = field(default_factory=dict)
    """Number of images beside the class folders instead of inside one, by folder."""
    left_out: LeftOutCounter = field(default_factory=LeftOutCounter)
    """Files and folders that are left out for other reasons than their content."""
    listed: dict[Path, list[Path]] = field(default_factory=dict)
    """Entries of the root and of the folders of splits, which are needed several times but counted once."""

    def name(self, path: Path) -> str:
        """Return a printable path relative to the root, equal on all file systems."""
        return printable_name(str(path.relative_to(self.root).as_posix()))

    def entries(self, folder: Path) -> list[Path]:
        """Return the entries of the root or of a split's folder, without those that are left out."""
        if folder not in self.listed:
            self.listed[folder] = self.read_entries(folder)
        return self.listed[folder]

    def read_entries(self, folder: Path) -> list[Path]:
        """Return the entries of a folder, sorted by name; count those that are no data."""
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries)
        kept = []
        for name, is_folder in found:
            path = folder / name
            reason = clutter_reason(name) or (folder_reason(path) if is_folder else None)
            if reason is None:
                kept.append(path)
            else:
                self.left_out.add(reason, f"{self.name(path)}/" if is_folder else self.name(path))
        return kept


def list_folder(root: Path, split_folders: Mapping[str, str] | None = None) -> DatasetListing:
    """List every image of a folder tree by split and class, without decoding any image.

    `split_folders` has the folder of each split, relative to the root; names decide if it is empty. The layout of
    ILSVRC-2012 is supported, with its flat validation folder and its class names (`readers/ilsvrc.py`). Images in
    subfolders of a class folder belong to that class, and links are followed. Class names are sorted, in Unicode form
    NFC.

    Raises:
        ConfigError: If the layout is unknown or could mean two things, a class of `train` is empty, `val` or `test`
            has a class that `train` lacks, there are fewer than two classes, two classes have the same name, or a
            folder cannot be read.
    """
    tree = _Tree(root)
    try:
        found = _find_splits(tree, split_folders or {})
        folders = found.folders
        images = {split: _images_by_class(tree, folder) for split, folder in folders.items()}
        refuse_wrapped(root, folders, images)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror})") from error
    folder_names = tuple(sorted({name for by_class in images.values() for name in by_class}))
    _check_layout(tree, folders, images)
    labels = {name: label for label, name in enumerate(folder_names)}
    classes = synset_names(root, folder_names) if are_wnids(folder_names) else folder_names
    splits = {split: _split_listing(tree, by_class, labels) for split, by_class in images.items()}
    left_out = _left_out(tree)
    listing = DatasetListing(
        classes,
        splits,
        (*(group.line for group in left_out if group.is_warning), *found.warnings),
        kind="a folder of images",
        sources=found.sources(root),
        left_out=left_out,
    )
    return replace(listing, warnings=listing.warnings + check_classes(listing))


def printable_name(name: str) -> str:
    """Return a file's name in Unicode form NFC; bytes that are not UTF-8 become replacement characters."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def _find_splits(tree: _Tree, given: Mapping[str, str]) -> SplitFolders:
    """Return the folder of each split, and count what lies beside them."""
    entries = tree.entries(tree.root)
    found = find_split_folders(tree.root, [path for path in entries if path.is_dir()], given)
    if tree.root not in found.folders.values():
        used = {folder.relative_to(tree.root).parts[0] for folder in found.folders.values()}
        for path in entries:
            if path.name not in used:
                _count_left_out(tree, path)
    return found


def _images_by_class(tree: _Tree, folder: Path) -> dict[str, PackedPaths]:
    """Return the images of each class folder, by class name."""
    if _is_flat_validation(tree, folder):
        by_wnid = _flat_validation_by_wnid(tree, folder)
        return {name: PackedPaths.from_paths(tree.root, paths) for name, paths in by_wnid.items()}
    images: dict[str, PackedPaths] = {}
    origin: dict[str, Path] = {}
    for path in tree.entries(folder):
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


def _is_flat_validation(tree: _Tree, folder: Path) -> bool:
    """Return whether a folder holds ILSVRC validation images directly, and no images in subfolders."""
    entries = tree.entries(folder)
    others = [path for path in entries if not is_validation_name(path.name)]
    if len(others) == len(entries):
        return False
    return not any(any(_images(_Tree(folder), path, frozenset())) for path in others if path.is_dir())


def _flat_validation_by_wnid(tree: _Tree, folder: Path) -> dict[str, list[Path]]:
    """Return the images of ILSVRC's flat validation folder by WordNet ID; other files have no label."""
    for path in tree.entries(folder):
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
    entries = tree.read_entries(folder)
    overlays = find_overlays(entries)
    for path in entries:
        if overlays and path in overlays:
            tree.left_out.add(OUTPUT, tree.name(path))
        elif path.is_dir():
            yield from _images(tree, path, parents | {inode})
        elif (kind := left_out_type(path)) is None:
            yield path
        else:
            tree.ignored.add(path, kind)


def _count_left_out(tree: _Tree, path: Path) -> None:
    """Count an entry outside any class folder."""
    if path.is_dir():
        tree.left_out.add(FOLDER, f"{tree.name(path)}/")
    elif (kind := left_out_type(path)) is not None:
        tree.ignored.add(path, kind)
    else:
        tree.left_out.add(OUTSIDE, tree.name(path))
        parent = str(path.parent)
        tree.misplaced[parent] = tree.misplaced.get(parent, 0) + 1


def _check_layout(tree: _Tree, folders: Mapping[str, Path], images: dict[str, dict[str, PackedPaths]]) -> None:
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
            hint = table_remedy(folder, tree.root) or one_class_remedy(tree.root)
            if split != "all":
                hint += f"; if the folders of {tree.root.name} are classes, give {CLASSES_OPTION}"
            if split in ("val", "test"):
                hint += f"; to read train alone, give --split-folders train={folders['train'].name}"
            raise ConfigError(
                f"{where}: holds {tree.misplaced[where]:,} images directly, without class folders; "
                f"{EXPECTED_LAYOUT}{hint}"
            )
        else:
            container = container_remedy(tree.root) or container_remedy(folder)
            found = tree.ignored.inside(folder)
            but = f" that is read, but {found}" if found and not container else ""
            remedy = EXPECTED_LAYOUT if split in ("train", "all") else "add some, or remove the folder"
            raise ConfigError(f"{where}: has no image{but}; {container or remedy}")


def _split_listing(tree: _Tree, by_class: dict[str, PackedPaths], label_of: dict[str, int]) -> SplitListing:
    paths = concatenate([by_class[name] for name in sorted(by_class)])
    labels = array("q")
    for name in sorted(by_class):
        labels.extend([label_of[name]] * len(by_class[name]))
    return SplitListing(PackedStrings.from_strings(tree.name(path) for path in paths), paths, labels)


def _left_out(tree: _Tree) -> tuple[LeftOutGroup, ...]:
    """Return everything that was left out: files by their content first, then those that are no data."""
    return (*tree.ignored.groups(), *tree.left_out.summary())
