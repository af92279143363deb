"""A cache in a hidden folder beside a model file: its ONNX graph, and measured backend selections.

Cached content is trusted as far as the model file itself. It is used only if no other user could have written it, if it
belongs to this version of the file, and if it is undamaged. Otherwise it is ignored.
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
INDEX_FILE, GRAPH_FILE = "choice.json", "graph.onnx"
MAX_INDEX_BYTES = 2**20
"""Size limit of the index. One selection takes less than a thousandth."""
MAX_SELECTIONS = 16
"""Number of selections that are stored, the latest ones."""
CHUNK_BYTES = 2**20


class SidecarCache:
    """The cache of one model file in its present version."""

    def __init__(self, path: Path) -> None:
        """Compute the SHA-256 of the model file.

        Raises:
            OSError: The file cannot be read.
        """
        self.sha256 = file_sha256(path)
        self._path = path
        self._folder = sidecar_folder(path)

    def load_graph(self, versions: dict[str, str]) -> bytes | None:
        """Return the ONNX graph that packages of these versions exported, if it is stored."""
        entry = self._load_index().get("graph", {})
        if entry.get("versions") != versions:
            return None
        graph = self._read(GRAPH_FILE, MAX_BYTES)
        return graph if graph and hashlib.sha256(graph).hexdigest() == entry.get("sha256") else None

    def save_graph(self, graph: bytes, versions: dict[str, str]) -> bool:
        """Store the ONNX graph in place of an older one. Return whether the folder is writable."""
        entry = {"sha256": hashlib.sha256(graph).hexdigest(), "versions": versions}
        if not self._write(GRAPH_FILE, graph):
            return False
        return self._write(INDEX_FILE, json.dumps({**self._load_index(), "graph": entry}).encode())

    def selections(self) -> list[dict[str, Any]]:
        """Return the stored selections, the latest last, as `save_selection` got them."""
        entries = self._load_index().get("choices", [])
        return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []

    def save_selection(self, entry: dict[str, Any], *, replaces: Sequence[dict[str, Any]] = ()) -> None:
        """Store a selection in place of others. Do nothing if the folder is not writable."""
        others = [other for other in self.selections() if other not in replaces]
        index = {**self._load_index(), "choices": [*others, entry][-MAX_SELECTIONS:]}
        self._write(INDEX_FILE, json.dumps(index).encode())

    def _load_index(self) -> dict[str, Any]:
        """Return the index for this version of the file; an empty one if there is none."""
        empty: dict[str, Any] = {"format": FORMAT, "file_sha256": self.sha256}
        try:
            index = json.loads(self._read(INDEX_FILE, MAX_INDEX_BYTES) or b"{}")
            matches = isinstance(index, dict) and {name: index.get(name) for name in empty} == empty
            return index if matches and isinstance(index.get("graph", {}), dict) else empty
        except (ValueError, RecursionError):
            return empty

    def _read(self, name: str, max_bytes: int) -> bytes | None:
        """Return a file of the folder if it exists, is trusted, and has at most `max_bytes`."""
        try:
            if not _is_trusted(self._folder, self._path) or not _is_trusted(self._folder / name, self._path):
                return None
            with (self._folder / name).open("rb") as file:
                content = file.read(max_bytes + 1)
            return content if len(content) <= max_bytes else None
        except OSError:
            return None

    def _write(self, name: str, content: bytes) -> bool:
        try:
            self._folder.mkdir(mode=0o755, exist_ok=True)
            if not _is_trusted(self._folder, self._path):
                return False
            write_atomic(self._folder / name, content)
            (self._folder / name).chmod(0o644)
            return True
        except OSError:
            with suppress(OSError):
                self._folder.rmdir()  # if it is empty, for example after a full disk
            return False


def sidecar_folder(path: Path) -> Path:
    """Return the cache folder of a file. It may not exist."""
    return path.with_name(f".{path.name}.resnetlab")


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file; for an `.xml`, of its OpenVINO weights too."""
    digest = hashlib.sha256()
    for file_path in (path, path.with_suffix(".bin")) if path.suffix.lower() == ".xml" else (path,):
        with file_path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _is_trusted(path: Path, model_file: Path) -> bool:
    """Return whether only this user, the owner of the model file or root can have written `path`. Links never are."""
    status = path.lstat()
    if not hasattr(os, "geteuid"):
        return not stat.S_ISLNK(status.st_mode)
    owners = {os.geteuid(), 0, model_file.stat().st_uid}
    return not stat.S_ISLNK(status.st_mode) and status.st_uid in owners and not status.st_mode & 0o022
