"""What is kept beside a file, so that the next start need not make it again: its ONNX graph, and measured choices.

It stands in a hidden folder beside the file, and is believed as far as the file itself is: only where nobody else could
have written it, of this very file, and undamaged. Anything else is as if it were not there.
"""

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from resnetlab.inference.formats.metadata import MAX_BYTES
from resnetlab.system.atomic_files import write_atomic

FORMAT = 1
NOTES, GRAPH = "choice.json", "graph.onnx"
MAX_NOTES = 2**20
"""Bytes; what is kept of a choice takes less than a thousandth."""
MOST = 16
"""Choices that are kept, the latest."""
CHUNK = 2**20


class SidecarCache:
    """The folder beside one file, as it now is."""

    def __init__(self, path: Path) -> None:
        """Look at a file, which is read once.

        Raises:
            OSError: where it cannot be.
        """
        self.sha256 = file_sha256(path)
        self._path = path
        self._folder = sidecar_folder(path)

    def graph(self, versions: dict[str, str]) -> bytes | None:
        """Return the graph that packages of these versions made of the file, if it is kept."""
        known = self._notes().get("graph", {})
        if known.get("versions") != versions:
            return None
        graph = self._read(GRAPH, MAX_BYTES)
        return graph if graph and hashlib.sha256(graph).hexdigest() == known.get("sha256") else None

    def keep_graph(self, graph: bytes, versions: dict[str, str]) -> bool:
        """Keep a graph in place of any other; say whether that was possible."""
        known = {"sha256": hashlib.sha256(graph).hexdigest(), "versions": versions}
        return self._write(GRAPH, graph) and self._write(NOTES, json.dumps({**self._notes(), "graph": known}).encode())

    def choices(self) -> list[dict[str, Any]]:
        """Return what was kept of choices, the latest last; each is what `keep_choice` was given."""
        found = self._notes().get("choices", [])
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    def keep_choice(self, choice: dict[str, Any], *, instead_of: Sequence[dict[str, Any]] = ()) -> None:
        """Keep a choice, in place of others; where that is not possible, nothing happens."""
        others = [one for one in self.choices() if one not in instead_of]
        self._write(NOTES, json.dumps({**self._notes(), "choices": [*others, choice][-MOST:]}).encode())

    def _notes(self) -> dict[str, Any]:
        """Return what is noted of this very file."""
        empty: dict[str, Any] = {"format": FORMAT, "file_sha256": self.sha256}
        try:
            notes = json.loads(self._read(NOTES, MAX_NOTES) or b"{}")
            same = isinstance(notes, dict) and {name: notes.get(name) for name in empty} == empty
            return notes if same and isinstance(notes.get("graph", {}), dict) else empty
        except (ValueError, RecursionError):
            return empty

    def _read(self, name: str, most: int) -> bytes | None:
        """Return a file of the folder, if it is there, ours, and not larger than can be."""
        try:
            if not _ours(self._folder, self._path) or not _ours(self._folder / name, self._path):
                return None
            with (self._folder / name).open("rb") as file:
                content = file.read(most + 1)
            return content if len(content) <= most else None
        except OSError:
            return None

    def _write(self, name: str, content: bytes) -> bool:
        try:
            self._folder.mkdir(mode=0o755, exist_ok=True)
            if not _ours(self._folder, self._path):
                return False
            write_atomic(self._folder / name, content)
            (self._folder / name).chmod(0o644)
            return True
        except OSError:
            with suppress(OSError):
                self._folder.rmdir()  # if it is empty: a disk that is full
            return False


def sidecar_folder(path: Path) -> Path:
    """Return the folder in which things are kept beside a file; mostly it is not there."""
    return path.with_name(f".{path.name}.resnetlab")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, and of OpenVINO's weights beside it, in hexadecimal digits."""
    digest = hashlib.sha256()
    for part in (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,):
        with part.open("rb") as file:
            while content := file.read(CHUNK):
                digest.update(content)
    return digest.hexdigest()


def _ours(path: Path, beside: Path) -> bool:
    """Say whether only we, the owner of the file beside it, or root can have written here; a link is nobody's."""
    found = path.lstat()
    if not hasattr(os, "geteuid"):
        return not stat.S_ISLNK(found.st_mode)
    owners = {os.geteuid(), 0, beside.stat().st_uid}
    return not stat.S_ISLNK(found.st_mode) and found.st_uid in owners and not found.st_mode & 0o022
