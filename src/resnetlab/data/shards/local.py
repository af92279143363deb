"""Local folders of shards: listing of their images, and verification of their files."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from resnetlab.config import ConfigError
from resnetlab.data.images.storage import LocalShard, forget_replaced
from resnetlab.data.listing import DatasetListing
from resnetlab.data.registry import INDEX_FILE
from resnetlab.data.shards.format import ShardEntry, ShardRows, build_listing, read_index, read_rows


def list_shards(folder: Path) -> DatasetListing:
    """List the images of a local folder of shards without opening any image.

    Raises:
        ConfigError: If an index is missing or damaged, or a shard is missing or has the wrong size.
    """
    index = read_index(_read_file(folder / INDEX_FILE), str(folder / INDEX_FILE))

    def rows_of(entry: ShardEntry) -> ShardRows:
        path = folder / entry.file
        try:
            num_bytes = path.stat().st_size
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); pack it again") from error
        if num_bytes != entry.bytes:
            raise ConfigError(f"{path}: has {num_bytes:,} bytes instead of {entry.bytes:,}; pack it again")
        forget_replaced(path)
        index_path = folder / entry.index_file
        return read_rows(_read_file(index_path), entry, num_classes=len(index.classes), where=str(index_path))

    return build_listing(index, rows_of, lambda entry: LocalShard(folder / entry.file, entry.sha256))


def find_damaged(folder: Path, workers: int, on_progress: Callable[[int, int], None] | None = None) -> dict[str, str]:
    """Read every shard and index in full; return the files whose SHA-256 is wrong, each with the reason.

    Args:
        folder: A local folder of shards.
        workers: Number of threads.
        on_progress: Called with the number of checked shards and of all shards.

    Raises:
        ConfigError: If `index.json` cannot be read.
    """
    index = read_index(_read_file(folder / INDEX_FILE), str(folder / INDEX_FILE))
    entries = [entry for entries in index.splits.values() for entry in entries]

    def check(entry: ShardEntry) -> dict[str, str]:
        expected = {entry.file: entry.sha256, entry.index_file: entry.index_sha256}
        return {name: reason for name, sha256 in expected.items() if (reason := _find_damage(folder / name, sha256))}

    damaged: dict[str, str] = {}
    with ThreadPoolExecutor(workers) as pool:
        for done, reasons in enumerate(pool.map(check, entries), start=1):
            damaged |= reasons
            if on_progress is not None:
                on_progress(done, len(entries))
    return damaged


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); pack it again") from error


def _find_damage(path: Path, sha256: str) -> str:
    """Return what is wrong with a file, or an empty string."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read ({error.strerror}); pack it again"
    return "" if found == sha256 else f"its SHA-256 differs from {INDEX_FILE}; pack it again, or copy it again"
