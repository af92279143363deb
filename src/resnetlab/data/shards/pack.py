"""Pack a data set into shards: mixed once, in tar files that are read one after the other, or by their index.

Shards are written by threads, each whole or not at all: what was packed when a call was killed, the next one keeps.
Equal sources and options give equal shards.
"""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.images.decode import BadImageError
from resnetlab.data.images.packed_sequences import PackedStrings, take_items
from resnetlab.data.images.scan import BadDataError, Progress
from resnetlab.data.images.storage import read_image_bytes
from resnetlab.data.open_dataset import list_dataset
from resnetlab.data.registry import (
    INDEX,
    LISTED,
    PLAN,
    DatasetListing,
    SplitListing,
    check_skipped,
    dataset_path,
    detect_kind,
    is_address,
)
from resnetlab.data.rng import make_generator
from resnetlab.data.shards.format import ShardIndex, find_damaged
from resnetlab.data.shards.manifest import (
    clear_packing,
    packing_manifest,
    read_completed,
    remove_temporary_files,
    start_packing,
)
from resnetlab.data.shards.remote import CACHE_GIB
from resnetlab.data.shards.writer import (
    BadShardError,
    PackOptions,
    ShardPlan,
    WrittenShard,
    encode_sample,
    read_written,
    write_shard,
)
from resnetlab.system.atomic_files import write_atomic
from resnetlab.system.cores import usable_cores
from resnetlab.system.dir_lock import lock_dir

__all__ = ["PackOptions", "pack_dataset"]

PER_SAMPLE = 3072
"""Bytes that a sample takes in a tar file beside those of its image: three headers, a class, a name, and padding."""
LOOKED_AT = 64
"""Images from which the bytes of the others are estimated."""


def pack_dataset(
    config: DataConfig,
    out: Path,
    way: PackOptions,
    *,
    workers: int | None = None,
    cache_gib: float = CACHE_GIB,
    on_progress: Progress | None = None,
) -> ShardIndex:
    """Pack the images of a folder tree, of parquet files or of other shards into a folder `out`, a shard a thread.

    The same call goes on where another was stopped, and packs again what was damaged since. With `config.on_bad_image`
    as `skip`, images that cannot be read are left out and listed in the index. `cache_gib` is as for `open_data`.

    Raises:
        ConfigError: for data that are not listed before they are opened, a folder that holds anything else or was
            packed from other images or in another way, one inside the data, or a class of which no image is left.
        BadDataError: where images cannot be read and are not to be skipped; shards without any stay.
        OSError: where the folder cannot be written.
    """
    kind = detect_kind(config)
    if kind not in LISTED:
        raise ConfigError(f"{config.name} fits into memory as it is; packed are folders of images and parquet files")
    if not is_address(config.name) and out.resolve().is_relative_to(dataset_path(config.name).resolve()):
        raise ConfigError(f"{out} lies in {config.name}, which is packed; choose a folder beside it with --out")
    contents = list_dataset(config, cache_gib)
    tell, threads = on_progress or (lambda stage, done, total: None), workers or usable_cores()
    with lock_dir(out, "packing"), _errors_named(out):
        plan = packing_manifest(config, contents, way)
        remove_temporary_files(out)
        whole = read_completed(out, plan, skip=config.on_bad_image == "skip")
        spoilt = {} if whole is None else find_damaged(out, threads, lambda done, total: tell("checking", done, total))
        if whole is not None and not spoilt:
            (out / PLAN).unlink(missing_ok=True)
            return whole
        start_packing(out, plan, spoilt)
        made = _pack_all(config, contents, out, way, threads, tell)
        try:
            check_skipped(contents, {split: _labels(some) for split, some in made.items()})
        except ConfigError:
            if whole is None:  # whatever would mend it changes the plan
                clear_packing(out)
            raise
        entries = {split: tuple(shard.entry for shard in some) for split, some in made.items()}
        left_out = tuple(reason for some in made.values() for shard in some for reason in shard.bad)
        index = ShardIndex(contents.classes, entries, left_out, contents.warnings, plan)
        write_atomic(out / INDEX, index.to_json())
        (out / PLAN).unlink()
    return index


@contextmanager
def _errors_named(out: Path) -> Iterator[None]:
    """Say of errors of the disk which folder they concern, and what works."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{out} cannot be written ({error.strerror or error}); make room, or mend that, then give the same command "
            "again: shards that are whole stay"
        ) from error


def _pack_all(
    config: DataConfig, contents: DatasetListing, out: Path, way: PackOptions, workers: int, tell: Progress
) -> dict[str, list[WrittenShard]]:
    """Write every shard that is not there; return those of each split, in order."""
    max_pixels, total = config.max_megapixels * 1_000_000, sum(map(len, contents.splits.values()))
    drafts = {split: plan_shards(split, listing, way, max_pixels) for split, listing in contents.splits.items()}
    skip, done, lock = config.on_bad_image == "skip", 0, threading.Lock()

    def make(draft: ShardPlan) -> WrittenShard:
        nonlocal done
        made = read_written(out, draft, skip=skip)
        if made is None:
            made = write_shard(out, draft, contents, way, max_pixels, skip=skip)
        with lock:
            done += len(draft.samples)
            tell("packing", done, total)
        return made

    pool = ThreadPoolExecutor(workers)
    try:
        return {split: list(pool.map(make, some)) for split, some in drafts.items()}
    except BadShardError as error:
        raise BadDataError(error.bad, total, config.name) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _labels(shards: Iterable[WrittenShard]) -> frozenset[int]:
    return frozenset[int]().union(*(shard.labels for shard in shards))


def plan_shards(split: str, listing: SplitListing, way: PackOptions, max_pixels: int) -> list[ShardPlan]:
    """Mix the samples of a split, always in the same way, and part them into shards of one number of samples each."""
    names = listing.names if isinstance(listing.names, PackedStrings) else PackedStrings.of(listing.names)
    canonical = np.lexsort((names.sortable(), np.asarray(listing.labels, np.int64)))
    order = canonical[torch.randperm(len(listing), generator=make_generator(0, "pack", split)).numpy()]
    sizes = []
    for place in take_items(listing.places, order[:LOOKED_AT]):
        with suppress(BadImageError, OSError):
            sizes.append(len(encode_sample(read_image_bytes(place), way.max_side, max_pixels).data))
    mean = (sum(sizes) / len(sizes) if sizes else 0) + PER_SAMPLE
    number = -(-int(len(listing) * mean) // (way.shard_mib << 20))
    number = max(1, min(number, len(listing)))  # images may be larger than a shard is to be
    starts = [len(listing) * part // number for part in range(number + 1)]
    return [ShardPlan(split, part, a, order[a:b]) for part, (a, b) in enumerate(pairwise(starts))]
