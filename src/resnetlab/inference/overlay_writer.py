"""A folder of drawings, in which nothing is lost: neither another drawing nor a file that is something else."""

import hashlib
import os
from io import BytesIO
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from resnetlab.config import ConfigError
from resnetlab.inference.inputs import DRAWING, STDIN
from resnetlab.system.atomic_files import write_atomic


class OverlayWriter:
    """A folder of drawings. None ever takes the place of another one, or of a file that is something else.

    Drawn again, the explanation of a picture takes the place of its old one.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder.

        Raises:
            ConfigError: where it cannot be made, or nothing can be written into it.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be made ({error.strerror}); choose another folder with --out"
            ) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"{folder} cannot be written; choose another folder with --out")
        self._folder = folder
        self._mine: set[Path] = set()

    def add(self, name: str, page: Image.Image) -> Path:
        """Write the explanation of the picture that is called `name`; return its file.

        Raises:
            OSError: where it cannot be written, with the file and what would help; nothing is left of it.
        """
        stem = Path(name).stem.strip("<>. ") or "picture"
        stem = "".join(letter if letter.isprintable() else "_" for letter in stem)[:80]
        source = str(Path(name).absolute())
        if name == STDIN:  # which is another picture each time
            source = f"{STDIN} {hashlib.sha256(page.tobytes()).hexdigest()}"
        number = 1
        while True:
            path = self._folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
            try:
                if path not in self._mine and _write(path, page, source):
                    self._mine.add(path)
                    return path
            except OSError as error:
                reason = error.strerror or str(error)
                raise OSError(f"{path} cannot be written ({reason}); choose another folder with --out") from error
            number += 1


def _write(path: Path, page: Image.Image, source: str) -> bool:
    """Write a file that is not there, or is an older drawing of the same picture; else say that it was not."""
    content, info = BytesIO(), PngInfo()
    info.add_itxt(DRAWING, _text(source))
    page.save(content, "PNG", pnginfo=info)
    if _explained(path) == _text(source):
        write_atomic(path, content.getvalue())
        return True
    try:
        path.touch(exist_ok=False)  # nobody else takes the name meanwhile
    except FileExistsError:
        return False
    try:
        write_atomic(path, content.getvalue())
    except BaseException:
        path.unlink()
        raise
    return True


def _explained(path: Path) -> str | None:
    """Return which picture a drawing of ours explains, `None` of any other file."""
    try:
        with Image.open(path, formats=["PNG"]) as page:
            return page.info.get(DRAWING)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _text(source: str) -> str:
    """Return a path as text that can be written, also one that is no UTF-8."""
    return source.encode("utf-8", "backslashreplace").decode()
