"""Pack a data set into shards: mixed once, in tar files that are read one after the other, or by their index.

Shards are written by threads, each whole or not at all: what was packed when a call was killed, the next one keeps.
Equal sources and options give equal files.
"""

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnetlab.claim import LOCK, claimed
from resnetlab.config import ConfigError, DataConfig
from resnetlab.cores import usable_cores
from resnetlab.data.catalogue import INDEX, LISTED, PLAN, Contents, Listing, is_address, kind_of, path_of
from resnetlab.data.chance import generator
from resnetlab.data.columns import Texts, take
from resnetlab.data.decode import BadImageError
from resnetlab.data.place import num_bytes, read_place
from resnetlab.data.remote import CACHE_GIB
from resnetlab.data.scan import BadDataError, Progress
from resnetlab.data.shard_writer import BadShardError, Draft, Way, made_before, taken, write_shard
from resnetlab.data.shards import Entry, Index, read_index
from resnetlab.data.sources import read_contents
from resnetlab.files import write_whole

__all__ = ["Way", "pack"]

PER_SAMPLE = 3072
"""Bytes that a sample takes in a tar file beside those of its image: three headers, a class, a name, and padding."""
LOOKED_AT = 64
"""Images from which the bytes of the others are estimated."""


def pack(
    config: DataConfig,
    out: Path,
    way: Way,
    *,
    workers: int | None = None,
    cache_gib: float = CACHE_GIB,
    on_progress: Progress | None = None,
) -> Index:
    """Pack the images of a folder tree, of parquet files or of other shards into a folder `out`, a shard a thread.

    The same call goes on where another was stopped. With `config.on_bad_image` as `skip`, images that cannot be read
    are left out and listed in the index. `cache_gib` is as for `open_data`.

    Raises:
        ConfigError: for data that are not listed before they are opened, a folder that holds anything else, or one
            inside the data.
        BadDataError: where images cannot be read and are not to be skipped; shards without any stay.
        OSError: where the folder cannot be written.
    """
    kind = kind_of(config)
    if kind not in LISTED:
        raise ConfigError(f"{config.name} fits into memory as it is; packed are folders of images and parquet files")
    if not is_address(config.name) and out.resolve().is_relative_to(path_of(config.name).resolve()):
        raise ConfigError(f"{out} lies in {config.name}, which is packed; choose a folder beside it with --out")
    contents = read_contents(config, cache_gib)
    with claimed(out, "packing"):
        plan = _plan(config, contents, way)
        whole = _begun(out, plan)
        if whole is not None:
            return whole
        write_whole(out / PLAN, json.dumps(plan, ensure_ascii=False, indent=1))
        made = _pack_all(config, contents, out, way, workers or usable_cores(), on_progress)
        index = replace(made, packed=plan)
        write_whole(out / INDEX, index.to_json())
        (out / PLAN).unlink()
    return index


def _plan(config: DataConfig, contents: Contents, way: Way) -> dict[str, Any]:
    """Return what makes one packing the same as another."""
    digest = hashlib.sha256(repr((contents.classes, list(contents.splits))).encode())
    for listing in contents.splits.values():
        for name, label, place in zip(listing.names, listing.labels, listing.places, strict=True):
            digest.update(f"{name}\0{label}\0{num_bytes(place)}\n".encode("utf-8", "surrogateescape"))
    return {"source": config.name, **asdict(way), "images": digest.hexdigest()}


def _begun(out: Path, plan: dict[str, Any]) -> Index | None:
    """Return what the folder holds, if that is all; see that what it holds is a part of it.

    Raises:
        ConfigError: where it holds something else.
    """
    for file in (out / INDEX, out / PLAN):
        if file.exists():
            whole = read_index(file.read_bytes(), str(file)) if file.name == INDEX else None
            if whole is None and not any(out.glob("*.npz")):
                return None  # nothing came of it: images that could not be read, and were mended since
            before = whole.packed if whole else json.loads(file.read_bytes())
            for name in ("max_side", "shard_mib", "images"):
                if before.get(name) != plan[name]:
                    was = "other images" if name == "images" else f"{name.replace('_', '-')} {before.get(name)}"
                    raise ConfigError(f"{out} was packed from {before.get('source')} with {was}; choose another --out")
            return whole
    others = [path.name for path in out.iterdir() if path.name != LOCK]
    if others:
        raise ConfigError(f"{out} holds {others[0]}, which was not packed; choose an empty folder with --out")
    return None


def _pack_all(
    config: DataConfig, contents: Contents, out: Path, way: Way, workers: int, on_progress: Progress | None
) -> Index:
    """Write every shard that is not there."""
    max_pixels, total = config.max_megapixels * 1_000_000, sum(map(len, contents.splits.values()))
    drafts = {split: drafts_of(split, listing, way, max_pixels) for split, listing in contents.splits.items()}
    done, lock = 0, threading.Lock()

    def make(draft: Draft) -> tuple[Entry, list[str]]:
        nonlocal done
        made = made_before(out, draft)
        if made is None:
            made = write_shard(out, draft, contents, way, max_pixels, skip=config.on_bad_image == "skip")
        with lock:
            done += len(draft.samples)
            if on_progress is not None:
                on_progress("packing", done, total)
        return made

    pool = ThreadPoolExecutor(workers)
    try:
        entries, bad = {}, []
        for split, some in drafts.items():
            found = list(pool.map(make, some))
            entries[split] = tuple(entry for entry, _ in found)
            bad += [reason for _, reasons in found for reason in reasons]
    except BadShardError as error:
        raise BadDataError(error.bad, total, config.name) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return Index(contents.classes, entries, tuple(bad), contents.warnings)


def drafts_of(split: str, listing: Listing, way: Way, max_pixels: int) -> list[Draft]:
    """Mix the samples of a split, always in the same way, and part them into shards of one number of samples each."""
    names = listing.names if isinstance(listing.names, Texts) else Texts.of(listing.names)
    canonical = np.lexsort((names.sortable(), np.asarray(listing.labels, np.int64)))
    order = canonical[torch.randperm(len(listing), generator=generator(0, "pack", split)).numpy()]
    sizes = []
    for place in take(listing.places, order[:LOOKED_AT]):
        with suppress(BadImageError, OSError):
            sizes.append(len(taken(read_place(place), way.max_side, max_pixels).data))
    mean = (sum(sizes) / len(sizes) if sizes else 0) + PER_SAMPLE
    number = max(1, -(-int(len(listing) * mean) // (way.shard_mib << 20)))
    starts = [len(listing) * part // number for part in range(number + 1)]
    return [Draft(split, part, a, order[a:b]) for part, (a, b) in enumerate(pairwise(starts))]
