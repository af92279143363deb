"""Files and folders in a data set that are no data: those of operating systems, network drives and resnetlab itself."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from resnetlab.data.images.file_types import KNOWN_SUFFIXES
from resnetlab.data.left_out import HIDDEN, OUTPUT, SYSTEM, Reason

SYSTEM_NAMES = frozenset(
    (
        *("__macosx", ".ds_store", ".appledouble", ".applesingle", ".lsoverride", ".spotlight-v100", ".trashes"),
        *(".fseventsd", ".temporaryitems", "temporary items", "network trash folder", ".documentrevisions-v100"),
        *(".volumeicon.icns", ".apdisk", "icon\r"),
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler"),
        *("system volume information", ".trash", ".directory", ".thumbnails", ".nomedia", "lost+found"),
        *("@eadir", "@tmp", "@sharebin", "#recycle", "#snapshot", ".snapshot"),
        *("@recycle", "@recently-snapshot", ".@__thumb", ".@__qini"),
        *(".ipynb_checkpoints", "__pycache__", ".cache", ".git", ".gitattributes", ".gitignore", ".svn", ".hg"),
    )
)
"""Names in lower case. Sources: Windows, macOS, Linux desktops, Synology, QNAP, Jupyter, Git."""
SYSTEM_PATTERN = re.compile(r"\._.*|.*@syno(resource|eastream)|.*:zone\.identifier|found\.\d{3}", re.IGNORECASE)
"""Resource forks of macOS (`._name.jpg`), streams of Synology and Windows, and files that a disk check recovered."""
OUTPUT_FOLDERS = ("runs", "studies", "explained")
"""Folders that commands write to without `--out`."""
OVERLAY_KEY = "resnetlab-explains"
"""PNG text key of the overlays of `predict --explain`; its value is the explained image."""
OVERLAY_HEAD_BYTES = 100
CONFIG_KEYS = (b'"recipe"', b'"stage_blocks"')
"""Keys by which the `config.json` of a run is known."""
NO_IMAGE = re.compile(r"_|LICEN[CS]E|README|CITATION|Makefile|Dockerfile")
"""Names without a suffix that are no images."""
MAX_NESTING = 4
"""Folders above a run that may hold nothing else: `studies/digits/runs/`."""


def clutter_reason(name: str) -> Reason | None:
    """Return why an entry is left out, judging from its name alone; `None` if it is not."""
    if name.lower() in SYSTEM_NAMES or SYSTEM_PATTERN.fullmatch(name):
        return SYSTEM
    return HIDDEN if name.startswith(".") else None


def folder_reason(folder: Path) -> Reason | None:
    """Return why a folder is left out, judging from its content; `None` if it is not.

    A virtual environment of Python is a system folder. Outputs of resnetlab are run directories, studies, figures,
    shards, overlays of `predict --explain`, and folders that hold nothing but such folders.
    """
    try:
        if (folder / "pyvenv.cfg").is_file():
            return SYSTEM
        return OUTPUT if _is_output(folder, MAX_NESTING) else None
    except OSError:  # a folder that cannot be read is reported when it is listed
        return None


def is_overlay(path: Path) -> bool:
    """Return whether a file is an overlay of `--explain`: the first chunk after the PNG header has its text key."""
    try:
        if path.suffix != ".png" or not path.is_file():
            return False
        with path.open("rb") as file:
            return f"iTXt{OVERLAY_KEY}\0".encode() in file.read(OVERLAY_HEAD_BYTES)
    except OSError:
        return False


def find_overlays(files: Sequence[Path]) -> set[Path]:
    """Return the overlays among the files of one folder.

    Not every PNG is opened: the first one is, and those whose name fits another file, as `cat.png` or `cat-2.png` fits
    `cat.jpg`. If the first one is an overlay, all are opened.
    """
    pngs = [path for path in files if path.suffix == ".png"]
    if not pngs:
        return set()
    if is_overlay(pngs[0]):
        return {path for path in pngs if is_overlay(path)}
    numbered = re.compile(r"-\d+$")
    stems: dict[str, int] = {}
    for path in files:
        stem = numbered.sub("", path.stem)
        stems[stem] = stems.get(stem, 0) + 1
    whole = {path.stem for path in files if path.suffix != ".png"} | {path.stem for path in pngs}
    candidates = (
        path for path in pngs if stems[numbered.sub("", path.stem)] > 1 and numbered.sub("", path.stem) in whole
    )
    return {path for path in candidates if is_overlay(path)}


def has_image_suffix(name: str) -> bool:
    """Return whether a file's name has the suffix of an image."""
    return _suffix(name) in KNOWN_SUFFIXES


def may_be_image(name: str) -> bool:
    """Return whether a file may be an image, judging from its name: suffix of an image, number, or no suffix."""
    suffix = _suffix(name)
    return suffix in KNOWN_SUFFIXES or suffix[1:].isdigit() or (not suffix and not NO_IMAGE.match(name))


def is_shard_index(path: Path) -> bool:
    """Return whether an `index.json` belongs to shards: a folder of classes may contain an unrelated one.

    An empty index next to tar files counts: it is a truncated index of shards.
    """
    with path.open("rb") as file:
        head = file.read(256)
    return b"resnetlab shards" in head or (not head and any(path.parent.glob("*.tar")))


def _is_output(folder: Path, depth: int) -> bool:
    if _has_run_config(folder) or (folder / ".packing.json").is_file():
        return True
    if folder.name == "figures" and (folder.parent / "runs").is_dir() and (folder.parent / "results.json").is_file():
        return True  # of a study
    if (folder / "index.json").is_file() and is_shard_index(folder / "index.json"):
        return True
    folders: list[Path] = []
    has_overlay = False
    with os.scandir(folder) as entries:
        for entry in entries:
            if clutter_reason(entry.name) is not None:
                continue
            if entry.is_dir():
                folders.append(folder / entry.name)
            elif has_image_suffix(entry.name):
                if not is_overlay(folder / entry.name):
                    return folder.name.endswith("diagnosis") and _is_figure(folder / entry.name)
                has_overlay = True
    if folder.name in OUTPUT_FOLDERS and not has_overlay and not _has_image(folder):
        return True  # of a run that has just begun
    if depth and any(child.name == "runs" and _is_output(child, depth - 1) for child in folders):
        # A study, unless a command wrote into a folder of images.
        return not any(_has_image(child) and not _is_output(child, depth - 1) for child in folders)
    if folders:
        return depth > 0 and all(_is_output(child, depth - 1) for child in folders)
    return has_overlay


def _suffix(name: str) -> str:
    """Return the suffix of a file's name in lower case."""
    start = name.rfind(".")
    return name[start:].lower() if start > 0 else ""


def _has_run_config(folder: Path) -> bool:
    path = folder / "config.json"
    if not path.is_file():
        return False
    with path.open("rb") as file:
        content = file.read(1 << 16)
    return all(key in content for key in CONFIG_KEYS)


def _is_figure(path: Path) -> bool:
    """Return whether an image is a figure of `diagnose`."""
    return path.name in ("gradients.png", "responses.png")


def _has_image(folder: Path) -> bool:
    """Return whether a folder or one inside it has an image, judging from names."""
    return any(
        has_image_suffix(name) for _, _, names in os.walk(folder) for name in names if clutter_reason(name) is None
    )
