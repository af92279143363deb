"""List the images of a folder tree: `train/cat/0031.jpg`, or one level of classes, `cat/0031.jpg`."""

import os
import unicodedata
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from resnetlab.config import ConfigError
from resnetlab.data.images.packed_sequences import PackedPaths, PackedStrings, concatenate
from resnetlab.data.readers.ilsvrc import are_wnids, is_validation, read_flat_validation, synset_names
from resnetlab.data.registry import DatasetListing, SplitListing, check_classes

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ""}
"""Of image files, in lower case; a file without any is taken for an image as well."""
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folders that are splits, whatever their case."""
CLUTTER = {"__macosx", "thumbs.db", "desktop.ini"}
"""Left behind by Windows and macOS; hidden files are ignored as well."""
LAYOUT = "expected are folders of classes, such as PATH/train/cat/1.jpg and PATH/val/cat/2.jpg, or PATH/cat/1.jpg"


@dataclass
class _Tree:
    """Where the walk is, and what it left out."""

    root: Path
    ignored: dict[str, int] = field(default_factory=dict)
    """Files by suffix that are not images."""
    loose: dict[str, int] = field(default_factory=dict)
    """Images by folder that lie beside the folders of classes instead of inside one."""

    def name(self, path: Path) -> str:
        """Return a path below the root as everybody can print it, the same on every file system."""
        return printable_name(str(path.relative_to(self.root).as_posix()))


def list_folder(root: Path) -> DatasetListing:
    """List every image of a folder tree by split and class; no image is opened.

    The layout of ILSVRC-2012 is known too (`data.ilsvrc`), with its flat validation folder and its class names.
    Folders inside a class belong to it, linked folders are followed. Class names are NFC-normalised and sorted.

    Raises:
        ConfigError: where the layout is another, a class of `train` is empty, `val` or `test` has a class that `train`
            lacks, there are fewer than two classes, two have one name, or a folder cannot be read.
    """
    tree = _Tree(root)
    try:
        folders = _split_folders(tree)
        found = {split: _classes_in(tree, folder) for split, folder in folders.items()}
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror})") from error
    folder_names = tuple(sorted({name for split in found.values() for name in split}))
    _check_layout(tree, folders, found)
    labels = {name: label for label, name in enumerate(folder_names)}
    classes = synset_names(root, folder_names) if are_wnids(folder_names) else folder_names
    contents = DatasetListing(
        classes, {split: _listing(tree, by_class, labels) for split, by_class in found.items()}, _warnings(tree)
    )
    return DatasetListing(classes, contents.splits, contents.warnings + check_classes(contents))


def printable_name(name: str) -> str:
    """Return a file's name in NFC; bytes that are no UTF-8 become question marks."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))


def _split_folders(tree: _Tree) -> dict[str, Path]:
    """Find the folder of each split; `all` where the root itself holds the classes."""
    inside = [path for path in _visible(tree.root) if path.is_dir()]
    named = [path for path in inside if path.name.lower() in SPLITS]
    others = [path for path in inside if path not in named]
    # A class may be called "train", beside "bus" and "car": it is a split where something in it looks like a class.
    if not named or (others and not any(child.is_dir() for path in named for child in _visible(path))):
        return {"all": tree.root}
    folders: dict[str, Path] = {}
    for path in named:
        split = SPLITS[path.name.lower()]
        if split in folders:
            raise ConfigError(f"{tree.root}: {folders[split].name}/ and {path.name}/ are both {split}; keep one")
        folders[split] = path
    if "train" not in folders:
        raise ConfigError(
            f"{tree.root}: there is {named[0].name}/ but no train/; add it, or give a folder of classes without splits"
        )
    for path in _visible(tree.root):
        if path not in named:
            _leave_out(tree, path)
    return {split: folders[split] for split in ("train", "val", "test") if split in folders}


def _classes_in(tree: _Tree, folder: Path) -> dict[str, PackedPaths]:
    """List the images of each class folder, by class name."""
    if _is_flat(folder):
        return {name: PackedPaths.of(tree.root, paths) for name, paths in _by_list(tree, folder).items()}
    found: dict[str, PackedPaths] = {}
    origin: dict[str, Path] = {}
    for path in _visible(folder):
        if not path.is_dir():
            _leave_out(tree, path)
            continue
        name = printable_name(path.name)
        if name in found:
            raise ConfigError(
                f"{tree.root}: two folders are both called {tree.name(path)} (written in different Unicode forms: "
                f"{origin[name].name!a} and {path.name!a}); merge them"
            )
        origin[name] = path
        found[name] = PackedPaths.of(tree.root, _images(tree, path, frozenset()))
    return found


def _is_flat(folder: Path) -> bool:
    """Say whether validation images of the challenge lie directly in a folder, and no images in folders inside it."""
    entries = _visible(folder)
    others = [path for path in entries if not is_validation(path.name)]
    if len(others) == len(entries):
        return False
    return not any(any(_images(_Tree(folder), path, frozenset())) for path in others if path.is_dir())


def _by_list(tree: _Tree, folder: Path) -> dict[str, list[Path]]:
    """List the images of the challenge's flat validation folder, by WordNet number; nothing else in it has a label."""
    for path in _visible(folder):
        if not is_validation(path.name):
            _leave_out(tree, path)
    flat, found = read_flat_validation(folder), {}
    for path, wnid in zip(flat.images, flat.wnids, strict=True):
        found.setdefault(wnid, []).append(path)
    return found


def _images(tree: _Tree, folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Yield the images of a class folder and of every folder in it, except one that we are already in (a loop)."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for path in _visible(folder):
        if path.is_dir():
            yield from _images(tree, path, above | {here})
        elif _is_image(path):
            yield path
        else:
            _leave_out(tree, path)


def _visible(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted by name, without hidden things and the clutter of operating systems."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    return [folder / name for name in sorted(names) if not name.startswith(".") and name.lower() not in CLUTTER]


def _is_image(path: Path) -> bool:
    """Say whether a file looks like an image; a link to nothing does too, and is reported when it is read."""
    return path.suffix.lower() in SUFFIXES and (path.is_file() or path.is_symlink())


def _leave_out(tree: _Tree, path: Path) -> None:
    if path.is_dir() or not _is_image(path):
        kind = f"{path.name}/" if path.is_dir() else path.suffix.lower() or path.name
        tree.ignored[kind] = tree.ignored.get(kind, 0) + 1
    elif path.suffix:  # a README or LICENSE beside the classes is nobody's image
        parent = str(path.parent)
        tree.loose[parent] = tree.loose.get(parent, 0) + 1


def _check_layout(tree: _Tree, folders: dict[str, Path], found: dict[str, dict[str, PackedPaths]]) -> None:
    """Refuse a tree without images, images without classes, and classes without images."""
    for split, folder in folders.items():
        where = str(folder)
        if any(found[split].values()):
            for name, images in found[split].items():
                if not images and split in ("train", "all"):
                    raise ConfigError(f"{folder / name}: this class has no image; add some, or remove the folder")
        elif where in tree.loose:
            raise ConfigError(
                f"{where}: {tree.loose[where]:,} images lie directly in it, without a folder for their class; {LAYOUT}"
            )
        elif split in ("train", "all"):
            raise ConfigError(f"{where}: no image in it; {LAYOUT}")
        else:
            raise ConfigError(f"{where}: no image in it; add some, or remove the folder")


def _listing(tree: _Tree, by_class: dict[str, PackedPaths], labels: dict[str, int]) -> SplitListing:
    places = concatenate([by_class[name] for name in sorted(by_class)])
    numbers = array("q")
    for name in sorted(by_class):
        numbers.extend([labels[name]] * len(by_class[name]))
    return SplitListing(PackedStrings.of(tree.name(path) for path in places), places, numbers)


def _warnings(tree: _Tree) -> tuple[str, ...]:
    warnings = []
    if tree.ignored:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(tree.ignored.items()))
        warnings.append(f"ignored, since they are not images: {kinds}")
    for folder, count in tree.loose.items():
        warnings.append(f"ignored, since they lie in no class folder: {count:,} images directly in {folder}")
    return tuple(warnings)
