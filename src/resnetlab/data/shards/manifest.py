"""What makes one packing the same as another, and what a folder holds of it: all, a part, or something else.

Files count by name, length and the time of their last change, all other images by their content.
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
from resnetlab.data.registry import INDEX, PLAN, DatasetListing
from resnetlab.data.shards.format import SPLITS, ShardIndex, read_index
from resnetlab.data.shards.writer import PackOptions
from resnetlab.system.atomic_files import final_name, write_atomic
from resnetlab.system.dir_lock import LOCK

SHARD = re.compile(rf"({'|'.join(SPLITS)})-\d{{6,}}\.(tar|npz)")


def packing_manifest(config: DataConfig, contents: DatasetListing, way: PackOptions) -> dict[str, Any]:
    """Return all that the shards follow from, but for `on_bad_image`: what was left out tells that."""
    images = hashlib.sha256(repr((contents.classes, list(contents.splits))).encode())
    times = hashlib.sha256()
    for listing in contents.splits.values():
        for name, label, place in zip(listing.names, listing.labels, listing.places, strict=True):
            num_bytes, time_ns, content = _look(place)
            images.update(f"{name}\0{label}\0{num_bytes}\0{content}\n".encode("utf-8", "surrogateescape"))
            times.update(f"{time_ns}\n".encode())
    return {
        "source": config.name,
        **asdict(way),
        "max_megapixels": config.max_megapixels,
        "images": images.hexdigest(),
        "times": times.hexdigest(),
    }


def _look(place: ImageStorage) -> tuple[int, int, str]:
    """Return an image's length, when it was last changed (ns), and what stands for its content, where that is known."""
    if isinstance(place, bytes):
        return len(place), 0, hashlib.sha256(place).hexdigest()
    if not isinstance(place, Path):
        return place.length, 0, f"{place.shard.sha256} {place.offset}"
    try:
        status = place.stat()
    except OSError:
        return -1, -1, ""
    return status.st_size, status.st_mtime_ns, ""


def remove_temporary_files(out: Path) -> None:
    """Remove what a packing that was killed had begun to write; nobody else may be packing there.

    Raises:
        OSError: where that cannot be done.
    """
    for path in [*out.iterdir()]:
        begun = final_name(path.name)
        if begun in (INDEX, PLAN) or (path.name.startswith(".") and SHARD.fullmatch(begun or path.name[1:])):
            path.unlink()


def read_completed(out: Path, plan: Mapping[str, Any], *, skip: bool) -> ShardIndex | None:
    """Return the index of a folder that was packed to its end; see that what it holds was packed by this plan.

    Raises:
        ConfigError: where it holds something else, or lacks images and they are not to be skipped.
    """
    if (out / INDEX).exists():
        whole = read_index((out / INDEX).read_bytes(), str(out / INDEX))
        _compare(out, whole.packed, plan)
        if whole.left_out and not skip:
            raise ConfigError(
                f"{out} was packed without images that could not be read ({len(whole.left_out):,}); give "
                "--on-bad-image skip again, or choose another --out"
            )
        return whole
    if (out / PLAN).exists():
        if any(out.glob("*.npz")):
            _compare(out, _read_plan(out / PLAN), plan)
        else:  # nothing came of it: images that could not be read, and were mended since
            clear_packing(out)
        return None
    others = [path.name for path in out.iterdir() if path.name != LOCK]
    if others:
        raise ConfigError(f"{out} holds {others[0]}, which was not packed; choose an empty folder with --out")
    return None


def start_packing(out: Path, plan: Mapping[str, Any], spoilt: Iterable[str] = ()) -> None:
    """Note the plan of a folder that is not whole, or not any more, for the files `spoilt`: they are removed.

    The index goes last: until then a call after a kill finds again what is missing.

    Raises:
        OSError: where the folder cannot be written.
    """
    write_atomic(out / PLAN, json.dumps(plan, ensure_ascii=False, indent=1))
    for name in spoilt:
        (out / name).unlink(missing_ok=True)
    (out / INDEX).unlink(missing_ok=True)


def clear_packing(out: Path) -> None:
    """Remove the shards of a folder that is not whole, and its plan.

    Raises:
        OSError: where that cannot be done.
    """
    for path in [*out.iterdir()]:
        if path.name == PLAN or SHARD.fullmatch(path.name):
            path.unlink()


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: damaged ({error}); remove the folder, or choose another with --out") from error


def _compare(out: Path, before: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where a folder was packed by another plan."""
    source = before.get("source")
    for name in ("max_side", "shard_mib", "max_megapixels", "images"):
        found = before.get(name, "unknown")
        if found != plan[name]:
            was = "other images" if name == "images" else f"{name.replace('_', '-')} {found}"
            raise ConfigError(f"{out} was packed from {source} with {was}; choose another --out")
    if before.get("times") != plan["times"]:
        raise ConfigError(
            f"{out} was packed from {source} when its files had other times: they were changed since, or these are a "
            "copy; choose another --out, or copy them with their times (cp -a, rsync -t)"
        )
