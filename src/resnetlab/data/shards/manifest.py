"""The packing manifest: what determines the content of shards, and whether a folder was packed from the same data.

Image files are compared by name, size and modification time; images in parquet files or shards by their content.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.images.storage import ImageStorage
from resnetlab.data.listing import DatasetListing
from resnetlab.data.registry import INDEX_FILE, PACK_PLAN_FILE
from resnetlab.data.shards.format import SPLITS, ShardIndex, read_index
from resnetlab.data.shards.writer import PackOptions
from resnetlab.system.atomic_files import final_name, write_atomic
from resnetlab.system.dir_lock import LOCK

SHARD_FILE = re.compile(rf"({'|'.join(SPLITS)})-\d{{6,}}\.(tar|npz)")


def packing_manifest(config: DataConfig, listing: DatasetListing, options: PackOptions) -> dict[str, Any]:
    """Return all that determines the shards except `on_bad_image`, whose effect is the list of left-out images."""
    images = hashlib.sha256(repr((listing.classes, list(listing.splits))).encode())
    times = hashlib.sha256()
    for split in listing.splits.values():
        for name, label, storage in zip(split.names, split.labels, split.storage, strict=True):
            num_bytes, time_ns, content = _image_identity(storage)
            images.update(f"{name}\0{label}\0{num_bytes}\0{content}\n".encode("utf-8", "surrogateescape"))
            times.update(f"{time_ns}\n".encode())
    return {
        "source": config.name,
        **{name: value for name, value in asdict(options).items() if (name, value) != ("color_profiles", "apply")},
        "max_megapixels": config.max_megapixels,
        "images": images.hexdigest(),
        "times": times.hexdigest(),
    }


def _image_identity(storage: ImageStorage) -> tuple[int, int, str]:
    """Return an image's size in bytes, its modification time in ns, and an identifier of its content if known."""
    if isinstance(storage, bytes):
        return len(storage), 0, hashlib.sha256(storage).hexdigest()
    if not isinstance(storage, Path):
        return storage.length, 0, f"{storage.shard.sha256} {storage.offset}"
    try:
        status = storage.stat()
    except OSError:
        return -1, -1, ""
    return status.st_size, status.st_mtime_ns, ""


def remove_temporary_files(out: Path) -> None:
    """Delete the temporary files of a killed packing. The caller must hold the folder's lock.

    Raises:
        OSError: If a file cannot be deleted.
    """
    for path in [*out.iterdir()]:
        target = final_name(path.name)
        if target in (INDEX_FILE, PACK_PLAN_FILE) or (
            path.name.startswith(".") and SHARD_FILE.fullmatch(target or path.name[1:])
        ):
            path.unlink()


def read_completed(out: Path, manifest: Mapping[str, Any], *, skip: bool) -> ShardIndex | None:
    """Return the index of a folder that was packed completely, or `None` if packing has to start or to continue.

    Args:
        out: The folder of shards.
        manifest: The manifest with which the folder must have been packed.
        skip: Whether images that cannot be read may be missing.

    Raises:
        ConfigError: If the folder holds other files, was packed from other data or with other options, or lacks images
            although `skip` is false.
    """
    if (out / INDEX_FILE).exists():
        index = read_index((out / INDEX_FILE).read_bytes(), str(out / INDEX_FILE))
        _check_same_packing(out, index.packed, manifest)
        if index.left_out and not skip:
            raise ConfigError(
                f"{out} was packed without {len(index.left_out):,} images that could not be read; give "
                "--on-bad-image skip again, or another --out"
            )
        return index
    if (out / PACK_PLAN_FILE).exists():
        if any(out.glob("*.npz")):
            _check_same_packing(out, _read_manifest(out / PACK_PLAN_FILE), manifest)
        else:  # no shard was completed: images could not be read, and may have been replaced since
            clear_packing(out)
        return None
    others = [path.name for path in out.iterdir() if path.name != LOCK]
    if others:
        raise ConfigError(f"{out} holds {others[0]}, which is not a shard; give an empty folder with --out")
    return None


def start_packing(out: Path, manifest: Mapping[str, Any], damaged: Iterable[str] = ()) -> None:
    """Write the manifest of a folder that is to be packed or repaired, and delete its damaged files.

    The index is deleted last: if the process is killed before, the next call finds the missing files again.

    Raises:
        OSError: If the folder cannot be written.
    """
    write_atomic(out / PACK_PLAN_FILE, json.dumps(manifest, ensure_ascii=False, indent=1))
    for name in damaged:
        (out / name).unlink(missing_ok=True)
    (out / INDEX_FILE).unlink(missing_ok=True)


def clear_packing(out: Path) -> None:
    """Delete the shards and the manifest of a folder whose packing was not finished.

    Raises:
        OSError: If a file cannot be deleted.
    """
    for path in [*out.iterdir()]:
        if path.name == PACK_PLAN_FILE or SHARD_FILE.fullmatch(path.name):
            path.unlink()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: damaged ({error}); remove the folder, or give another with --out") from error


def _check_same_packing(out: Path, previous: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if a folder was packed from other images or with other options."""
    source = previous.get("source")
    names = ["max_side", "shard_mib", "max_megapixels", "images"]
    if manifest["max_side"] is not None:  # else no image is decoded
        names.insert(1, "color_profiles")
    for name in names:
        default = "apply" if name == "color_profiles" else "unknown"
        value = previous.get(name, default)
        if value != manifest.get(name, default):
            difference = "other images" if name == "images" else f"{name.replace('_', '-')} {value}"
            raise ConfigError(f"{out} was packed from {source} with {difference}; give another --out")
    if previous.get("times") != manifest["times"]:
        raise ConfigError(
            f"{out} was packed from {source} when its files had other modification times: they were changed or copied "
            "since; give another --out, or copy the files with their times (cp -a, rsync -t)"
        )
