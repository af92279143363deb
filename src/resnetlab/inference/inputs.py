"""From words to pictures, in order: files, folders, globs, and standard input. Nothing is read before its turn."""

import os
import re
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from resnetlab.data.images.decode import BadImageError
from resnetlab.data.images.sniff import detect_format
from resnetlab.data.readers.folder import CLUTTER, SUFFIXES
from resnetlab.inference import image_files
from resnetlab.inference.image_files import HEAD, os_error_reason, read_image, read_limited

LONGEST_NAME = 1 << 16
"""Bytes without a line end that cannot be a path any more."""
SOON_S = 0.1
"""Seconds that a stream may be silent before what has come is worked on."""
STDIN = "<stdin>"
DRAWING = "resnetlab-explains"
"""Under this key a drawing of `--explain` says which picture it explains: folders and globs leave it out."""
MAGIC = re.compile(r"[*?[]")
"""What makes a word a glob, unless a file is called so."""
PPM = re.compile(rb"P[1-6f]\s+(#|\d+\s+\d)")
"""How a PPM goes on: with a comment, or its size."""


@dataclass(frozen=True)
class ImageInput:
    """One picture that was asked for, or why there is none."""

    name: str
    """What the caller calls it."""
    place: Path | bytes | None
    """Its file, or its encoded bytes."""
    error: str = ""

    def read(self) -> bytes:
        """Return the encoded bytes.

        Raises:
            BadImageError: with the reason, where there is no picture to be read; also where it is no image at all.
        """
        if self.place is None:
            raise BadImageError(self.error)
        return self.place if isinstance(self.place, bytes) else read_image(self.place)


def find_inputs(words: Iterable[str]) -> Iterator[ImageInput | None]:
    """Yield what each word means, one picture after the other; `None` where a stream has nothing more for now.

    A word is a file, a folder (every image in it and in the folders below, hidden ones and drawings of `--explain`
    excepted, sorted by name), a glob (`**` for any folders), or `-`: standard input, which is one image or names files
    and folders, one a line or each ended by a NUL. A word that means nothing is an `ImageInput` with its error.
    """
    for word in words:
        if word in ("-", "/dev/stdin"):
            yield from _standard_input()
        elif not os.path.lexists(word) and MAGIC.search(word):
            yield from _matching(word)
        else:
            yield from _named(word)


def shorten_middle(text: str, room: float, length: Callable[[str], float]) -> str:
    """Return a text with its middle left out where its `length` would be more than `room`."""
    kept, shown = min(len(text), int(room)), text
    while length(shown) > room and kept > 0:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return shown


def _named(word: str) -> Iterator[ImageInput]:
    """Yield a file, or the images of a folder."""
    path = Path(word)
    if not os.path.lexists(word):  # of the path "" would be the current folder
        yield ImageInput(word, None, "no such file or folder")
    elif not _is_folder(path):
        yield ImageInput(word, path)
    else:
        empty = True
        for image in _images(path, frozenset()):
            empty = False
            yield image
        if empty:
            yield ImageInput(word, None, f"no image in this folder ({', '.join(sorted(SUFFIXES - {''}))})")


def _images(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[ImageInput]:
    """Yield the images of a folder and of those in it, by name, but for one that we are already in (a loop)."""
    try:
        here = _identity(folder)
        names = [] if here in above else _visible(folder)
    except OSError as error:
        yield ImageInput(str(folder), None, os_error_reason(error))
        return
    for name in names:
        path = folder / name
        if _is_folder(path):
            yield from _images(path, above | {here})
        elif _is_picture(path) and not _is_drawing(path):
            yield ImageInput(str(path), path)


def _visible(folder: Path) -> list[str]:
    """Return what a folder holds, sorted, without hidden things and the clutter of operating systems."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    return sorted(name for name in names if not name.startswith(".") and name.lower() not in CLUTTER)


def _is_folder(path: Path) -> bool:
    """Say whether a path is a folder; what may not be looked at is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_picture(path: Path) -> bool:
    """Say whether a file that was not named itself is meant: by its suffix, or without one by its first bytes."""
    if path.suffix:
        return path.suffix.lower() in SUFFIXES
    try:
        return path.is_file() and detect_format(_head(path)) is not None
    except OSError:
        return False


def _is_drawing(path: Path) -> bool:
    """Say whether a file is a drawing of `--explain`, which says so in the first chunk after a PNG's header."""
    try:
        return path.suffix == ".png" and path.is_file() and f"iTXt{DRAWING}\0".encode() in _head(path, 100)
    except OSError:
        return False


def _head(path: Path, num_bytes: int = HEAD) -> bytes:
    with path.open("rb") as file:
        return file.read(num_bytes)


def _matching(pattern: str) -> Iterator[ImageInput]:
    """Yield the files that a glob matches, sorted; a folder that it matches stands for the images in it."""
    path = Path(pattern)
    parts = path.parts[1:] if path.anchor else path.parts
    found = sorted(set(_expand(Path(path.anchor), parts, frozenset())))
    if parts[-1] == "*":
        found = [one for one in found if _is_folder(one) or _is_picture(one)]
    if "**" in parts[:-1]:  # what is in the folders is matched by itself
        found = [one for one in found if not _is_folder(one)]
    pictures = [one for one in found if not _is_drawing(one)]
    if not pictures:
        yield ImageInput(pattern, None, "only drawings of --explain match; name them" if found else "no file matches")
    for one in pictures:
        yield from _named(str(one))


def _expand(folder: Path, parts: tuple[str, ...], above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Yield what the parts of a glob match below a folder; like the shell, but `**` never walks in circles."""
    if not parts or parts == ("**",):
        yield folder
        return
    first, rest = parts[0], parts[1:]
    if not MAGIC.search(first):
        if os.path.lexists(folder / first):
            yield from _expand(folder / first, rest, frozenset())
        return
    try:
        here, names = _identity(folder), _visible(folder)
    except OSError:  # no folder, or none that we may read
        return
    if first != "**":
        for name in names:
            if fnmatch(name, first) and (not rest or _is_folder(folder / name)):
                yield from _expand(folder / name, rest, frozenset())
    elif here not in above:
        yield from _expand(folder, rest, frozenset())
        for name in names:
            if _is_folder(folder / name):
                yield from _expand(folder / name, parts, above | {here})


def _standard_input() -> Iterator[ImageInput | None]:
    """Yield the image on standard input, or what the names on it mean."""
    try:
        handle = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        yield ImageInput(STDIN, None, "standard input is closed")
        return
    try:
        head = _begin(handle)
        if not head:
            yield ImageInput(STDIN, None, "is empty")
        elif _is_image(head):
            yield ImageInput(STDIN, head + read_limited(handle, image_files.MAX_BYTES - len(head)))
        else:
            yield from _listed(handle, head)
    except BadImageError as error:
        yield ImageInput(STDIN, None, str(error))
    except OSError as error:
        yield ImageInput(STDIN, None, os_error_reason(error))


def _begin(handle: int) -> bytes:
    """Read as much of a stream as tells what it is; a short path does not wait for more."""
    head = b""
    while len(head) < HEAD and (not {10, 0} & set(head) or detect_format(head) == "PPM"):
        part = os.read(handle, 1 << 16)
        if not part:
            break
        head += part
    return head


def _is_image(head: bytes) -> bool:
    """Say whether a stream is an image. `BM` also begins `BMW/1.jpg`, and a folder may be called `P1`."""
    kind = detect_format(head)
    if kind == "BMP":
        return head[6:10] == b"\0\0\0\0"  # which it reserves
    return PPM.match(head) is not None if kind == "PPM" else kind is not None


def _listed(handle: int, begun: bytes) -> Iterator[ImageInput | None]:
    """Yield what each name of a stream means, as it comes; `None` before the stream would be waited for."""
    waiting = begun
    separator = b""
    while True:
        if not separator:
            separator = b"\0" if b"\0" in waiting else b"\n" if b"\n" in waiting else b""
        *names, waiting = waiting.split(separator) if separator else [waiting]
        for name in names:
            yield from _from_line(name)
        if len(waiting) > LONGEST_NAME:
            yield ImageInput(
                STDIN, None, f"neither an image nor a list of paths: {len(waiting):,} bytes without a line end"
            )
            return
        if not select.select([handle], [], [], SOON_S)[0]:
            yield None
        if not (part := os.read(handle, 1 << 16)):
            break
        waiting += part
    yield from _from_line(waiting)


def _from_line(line: bytes) -> Iterator[ImageInput]:
    name = os.fsdecode(line.removesuffix(b"\r"))
    if name.strip():
        yield from _named(name)
