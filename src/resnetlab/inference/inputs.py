"""Expansion of command-line arguments to images, lazily and in order: files, folders, globs, and standard input."""

import os
import re
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from resnetlab.data.clutter import clutter_reason, is_overlay
from resnetlab.data.images.decode import BadImageError
from resnetlab.data.images.file_types import OVERLAY, FileType, left_out_type
from resnetlab.data.images.left_out import LeftOut
from resnetlab.data.images.sniff import detect_format, is_certain
from resnetlab.inference import image_files
from resnetlab.inference.image_files import HEADER_BYTES, os_error_reason, read_image, read_limited

MAX_PATH_BYTES = 1 << 16
"""A line of standard input that is longer cannot be a path."""
STREAM_TIMEOUT_S = 0.1
"""Seconds without new paths on a stream after which the paths so far are predicted."""
STDIN = "<stdin>"
GLOB_CHARACTERS = re.compile(r"[*?[]")
"""An argument with one of these is a glob, unless a file has that name."""


@dataclass(frozen=True)
class ImageInput:
    """One image of the input, or the reason why there is none."""

    name: str
    """The name in the output: the path, or `<stdin>`."""
    source: Path | bytes | None
    """Its file, or its encoded bytes; `None` with an `error`."""
    error: str = ""

    def read(self) -> bytes:
        """Return the encoded image.

        Raises:
            BadImageError: There is no image, or its file cannot be read; the message has the reason.
        """
        if self.source is None:
            raise BadImageError(self.error)
        return self.source if isinstance(self.source, bytes) else read_image(self.source)


def find_inputs(arguments: Iterable[str], left_out: LeftOut | None = None) -> Iterator[ImageInput | None]:
    """Yield the images of each argument, in order; `None` while a stream has no further path yet.

    An argument is one of:

    - a file;
    - a folder: all images in it and its subfolders, sorted by name, without hidden files and overlays of `--explain`;
    - a glob, in which `**` matches any folders;
    - `-`: standard input, which is one image, or a list of files and folders that end with a line end or a NUL each.

    An argument without images gives an `ImageInput` with an error. In folders, the content decides what is an image;
    files with a suffix of images are not opened for that.

    Args:
        arguments: The arguments.
        left_out: Counts the files of folders that are left out.
    """
    left_out = LeftOut() if left_out is None else left_out
    for argument in arguments:
        if argument in ("-", "/dev/stdin"):
            yield from _from_stdin(left_out)
        elif not os.path.lexists(argument) and GLOB_CHARACTERS.search(argument):
            yield from _from_glob(argument, left_out)
        else:
            yield from _from_path(argument, left_out)


def shorten_middle(text: str, room: float, length: Callable[[str], float]) -> str:
    """Return a text of a `length` up to `room`; an ellipsis replaces its middle if it is longer."""
    num_letters, shortened = min(len(text), int(room)), text
    while length(shortened) > room and num_letters > 0:
        num_letters -= 1
        shortened = f"{text[: (num_letters + 1) // 2]}…{text[len(text) - num_letters // 2 :]}"
    return shortened


def _from_path(name: str, left_out: LeftOut) -> Iterator[ImageInput]:
    """Yield a file, or the images of a folder."""
    path = Path(name)
    if not os.path.lexists(name):  # Path("") would be the current folder
        yield ImageInput(name, None, "no such file or folder")
    elif not _is_folder(path):
        yield ImageInput(name, path)
    else:
        empty = True
        for image in _images(path, frozenset(), left_out):
            empty = False
            yield image
        if empty:
            found = left_out.inside(path)
            yield ImageInput(name, None, "no image in this folder" + (f" that is read, but {found}" if found else ""))


def _images(folder: Path, parents: frozenset[tuple[int, int]], left_out: LeftOut) -> Iterator[ImageInput]:
    """Yield the images of a folder and its subfolders, by name. A link to one of the `parents` is skipped."""
    try:
        identity = _identity(folder)
        names = [] if identity in parents else _visible(folder)
    except OSError as error:
        yield ImageInput(str(folder), None, os_error_reason(error))
        return
    for name in names:
        path = folder / name
        if _is_folder(path):
            yield from _images(path, parents | {identity}, left_out)
        elif (kind := _left_out_type(path)) is None:
            yield ImageInput(str(path), path)
        else:
            left_out.add(path, kind)


def _visible(folder: Path) -> list[str]:
    """Return the names in a folder, sorted, without hidden files and the clutter of operating systems."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    return sorted(name for name in names if clutter_reason(name) is None)


def _is_folder(path: Path) -> bool:
    """Return whether a path is a folder; `False` if it cannot be read."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _left_out_type(path: Path) -> FileType | None:
    """Return the kind of a file that is left out of a folder, or `None` if it is to be classified."""
    try:
        return OVERLAY if is_overlay(path) else left_out_type(path)
    except OSError as error:
        return FileType(f"file that cannot be read ({os_error_reason(error)})")


def _from_glob(pattern: str, left_out: LeftOut) -> Iterator[ImageInput]:
    """Yield the files that a glob matches, sorted; a matching folder stands for its images."""
    path = Path(pattern)
    components = path.parts[1:] if path.anchor else path.parts
    matches = sorted(set(_expand(Path(path.anchor), components, frozenset())))
    if components[-1] == "*":
        kinds = {match: None if _is_folder(match) else _left_out_type(match) for match in matches}
        for match, kind in kinds.items():
            if kind is not None:
                left_out.add(match, kind)
        matches = [match for match in matches if kinds[match] in (None, OVERLAY)]
    if "**" in components[:-1]:  # the pattern matches the files in these folders by itself
        matches = [match for match in matches if not _is_folder(match)]
    images = [match for match in matches if not is_overlay(match)]
    if not images:
        reason = "only overlays of --explain match; name their files" if matches else "no file matches"
        yield ImageInput(pattern, None, reason)
    for image in images:
        yield from _from_path(str(image), left_out)


def _expand(folder: Path, components: tuple[str, ...], parents: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Yield the matches of a glob's components below a folder, as a shell does; `**` does not follow loops of links."""
    if not components or components == ("**",):
        yield folder
        return
    first, rest = components[0], components[1:]
    if not GLOB_CHARACTERS.search(first):
        if os.path.lexists(folder / first):
            yield from _expand(folder / first, rest, frozenset())
        return
    try:
        identity, names = _identity(folder), _visible(folder)
    except OSError:  # not a folder, or not readable
        return
    if first != "**":
        for name in names:
            if fnmatch(name, first) and (not rest or _is_folder(folder / name)):
                yield from _expand(folder / name, rest, frozenset())
    elif identity not in parents:
        yield from _expand(folder, rest, frozenset())
        for name in names:
            if _is_folder(folder / name):
                yield from _expand(folder / name, components, parents | {identity})


def _from_stdin(left_out: LeftOut) -> Iterator[ImageInput | None]:
    """Yield the image on standard input, or the images of the paths on it."""
    try:
        handle = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        yield ImageInput(STDIN, None, "standard input is closed")
        return
    try:
        head = _read_head(handle)
        if not head:
            yield ImageInput(STDIN, None, "is empty")
        elif _starts_image(head):
            yield ImageInput(STDIN, head + read_limited(handle, image_files.MAX_BYTES - len(head)))
        else:
            yield from _from_list(handle, head, left_out)
    except BadImageError as error:
        yield ImageInput(STDIN, None, str(error))
    except OSError as error:
        yield ImageInput(STDIN, None, os_error_reason(error))


def _read_head(handle: int) -> bytes:
    """Read as much of a stream as its type needs. A complete short path does not wait for more bytes."""
    head = b""
    while len(head) < HEADER_BYTES and (not {10, 0} & set(head) or detect_format(head) == "PPM"):
        chunk = os.read(handle, 1 << 16)
        if not chunk:
            break
        head += chunk
    return head


def _starts_image(head: bytes) -> bool:
    """Return whether a stream is an image. The path `BMW/1.jpg` starts as a BMP, and a folder `P1` as a PPM."""
    kind = detect_format(head)
    return kind is not None and is_certain(head, kind)


def _from_list(handle: int, head: bytes, left_out: LeftOut) -> Iterator[ImageInput | None]:
    """Yield the images of each path on a stream as it arrives; `None` before waiting for the stream."""
    pending = head
    separator = b""
    while True:
        if not separator:
            separator = b"\0" if b"\0" in pending else b"\n" if b"\n" in pending else b""
        *names, pending = pending.split(separator) if separator else [pending]
        for name in names:
            yield from _from_line(name, left_out)
        if len(pending) > MAX_PATH_BYTES:
            reason = f"neither an image nor a list of paths: {len(pending):,} bytes without a line end"
            yield ImageInput(STDIN, None, reason)
            return
        if not select.select([handle], [], [], STREAM_TIMEOUT_S)[0]:
            yield None
        if not (chunk := os.read(handle, 1 << 16)):
            break
        pending += chunk
    yield from _from_line(pending, left_out)


def _from_line(line: bytes, left_out: LeftOut) -> Iterator[ImageInput]:
    name = os.fsdecode(line.removesuffix(b"\r"))
    if name.strip():
        yield from _from_path(name, left_out)
