"""Folder trees that are wrapped in a further folder: an error that names the folder to give instead."""

from collections.abc import Mapping, Sized
from pathlib import Path

from resnetlab.config import ConfigError
from resnetlab.data.clutter import folder_reason
from resnetlab.data.left_out import join_names
from resnetlab.data.readers.split_folders import folders_in

MAX_DEPTH = 4
"""Folders around each other that are searched."""


def refuse_wrapped(root: Path, folders: Mapping[str, Path], images: Mapping[str, Mapping[str, Sized]]) -> None:
    """Raise if all images of the data lie in one folder that holds several: it is no class, but holds classes.

    Args:
        root: The folder tree.
        folders: The folder of each split.
        images: The images of each class folder, by split.

    Raises:
        ConfigError: If that is the case; the message names the folder or option to give.
        OSError: If a folder cannot be read.
    """
    inner = {split: _inner_folder(folder, images[split]) for split, folder in folders.items()}
    if "all" in inner:
        folder = inner["all"]
        if folder is not None:
            raise ConfigError(
                f"{root}: all images lie in {folder.relative_to(root)}/, which holds {_held(folder)}; give {folder}"
            )
        return
    train = inner["train"]
    if train is None:
        return
    inside = train.relative_to(folders["train"])
    found = {split: folder / inside if (folder / inside).is_dir() else folder for split, folder in folders.items()}
    given = ",".join(f"{split}={folder.relative_to(root).as_posix()}" for split, folder in found.items())
    raise ConfigError(
        f"{root}: all images of train lie in {train.relative_to(root)}/, which holds {_held(train)}; "
        f"give --split-folders {given}"
    )


def _inner_folder(folder: Path, images: Mapping[str, Sized]) -> Path | None:
    """Return the folder that holds several, if all images of a folder lie in it."""
    filled = [name for name, found in images.items() if len(found)]
    if len(filled) != 1:
        return None
    names = [path for path in _folders(folder) if len(images.get(path.name, ()))]
    inner = names[0] if len(names) == 1 else None
    for _ in range(MAX_DEPTH):
        if inner is None:
            break
        found = _folders(inner)
        if len(found) > 1:
            return inner
        inner = found[0] if found else None
    return None


def _folders(folder: Path) -> list[Path]:
    return [path for path in folders_in(folder) if folder_reason(path) is None]


def _held(folder: Path) -> str:
    return f"the folders {join_names([path.name for path in _folders(folder)], 60)}"
