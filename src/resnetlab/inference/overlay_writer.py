"""Writing of Grad-CAM overlays into a folder, without overwriting other overlays or other files."""

import hashlib
import os
from io import BytesIO
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from resnetlab.config import ConfigError
from resnetlab.data.clutter import OVERLAY_KEY
from resnetlab.inference.inputs import STDIN
from resnetlab.system.atomic_files import write_atomic


class OverlayWriter:
    """A writer of overlays as PNG files. It overwrites a file only if that is an older overlay of the same image."""

    def __init__(self, folder: Path) -> None:
        """Create the folder.

        Raises:
            ConfigError: The folder cannot be created or is not writable.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be created ({error.strerror}); choose another folder with --out"
            ) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"{folder} is not writable; choose another folder with --out")
        self._folder = folder
        self._written: set[Path] = set()

    def write(self, name: str, overlay: Image.Image) -> Path:
        """Write the overlay of the image called `name` and return its file.

        Raises:
            OSError: The file cannot be written. No partial file remains.
        """
        stem = Path(name).stem.strip("<>. ") or "image"
        stem = "".join(letter if letter.isprintable() else "_" for letter in stem)[:80]
        source = str(Path(name).absolute())
        if name == STDIN:  # another image in each run
            source = f"{STDIN} {hashlib.sha256(overlay.tobytes()).hexdigest()}"
        number = 1
        while True:
            path = self._folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
            try:
                if path not in self._written and _write(path, overlay, source):
                    self._written.add(path)
                    return path
            except OSError as error:
                reason = error.strerror or str(error)
                raise OSError(f"{path} cannot be written ({reason}); choose another folder with --out") from error
            number += 1


def _write(path: Path, overlay: Image.Image, source: str) -> bool:
    """Write a new file, or replace an older overlay of `source`. Return `False` if another file has this name."""
    content, info = BytesIO(), PngInfo()
    info.add_itxt(OVERLAY_KEY, _encodable(source))
    overlay.save(content, "PNG", pnginfo=info)
    if _explained_image(path) == _encodable(source):
        write_atomic(path, content.getvalue())
        return True
    try:
        path.touch(exist_ok=False)  # reserves the name against other processes
    except FileExistsError:
        return False
    try:
        write_atomic(path, content.getvalue())
    except BaseException:
        path.unlink()
        raise
    return True


def _explained_image(path: Path) -> str | None:
    """Return the image that an overlay explains; `None` for any other file."""
    try:
        with Image.open(path, formats=["PNG"]) as overlay:
            return overlay.info.get(OVERLAY_KEY)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _encodable(path: str) -> str:
    """Return a path as valid UTF-8 text; bytes that are not UTF-8 are escaped."""
    return path.encode("utf-8", "backslashreplace").decode()
