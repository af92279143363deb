"""Packing of a data set into shards: samples are shuffled once and written to tar files with an index.

Threads write one shard each, completely or not at all. After a killed call, the next one continues with the remaining
shards. The same source and options give the same files.
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
from resnetlab.data.images.storage import confirm_shards, read_image_bytes
from resnetlab.data.list_dataset import list_dataset
from resnetlab.data.listing import DatasetListing, SplitListing, check_skipped
from resnetlab.data.registry import INDEX_FILE, LISTED_KINDS, PACK_PLAN_FILE, dataset_path, detect_kind, is_url
from resnetlab.data.rng import make_generator
from resnetlab.data.shards.format import ShardIndex
from resnetlab.data.shards.local import find_damaged
from resnetlab.data.shards.manifest import (
    clear_packing,
    packing_manifest,
    read_completed,
    remove_temporary_files,
    start_packing,
)
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
from resnetlab.system.cache_folder import CACHE_GIB
from resnetlab.system.cores import usable_cores
from resnetlab.system.dir_lock import lock_dir

__all__ = ["PackOptions", "pack_dataset"]

SAMPLE_OVERHEAD_BYTES = 3072
"""Bytes of a sample in a tar file besides the image: three headers, the class, the name, and padding."""
NUM_MEASURED = 64
"""Images of a split from which the mean size of an image is estimated."""


def pack_dataset(
    config: DataConfig,
    out: Path,
    options: PackOptions,
    *,
    workers: int | None = None,
    cache_gib: float = CACHE_GIB,
    on_progress: Progress | None = None,
) -> ShardIndex:
    """Pack the images of a folder tree, of parquet files or of other shards into shards.

    The same call continues an unfinished packing and writes damaged shards again.

    Args:
        config: The data set. With `on_bad_image="skip"`, images that cannot be read are left out and listed in the
            index.
        out: The folder of shards, which is created.
        options: Image size and shard size.
        workers: Number of threads, each of which writes a shard; `None` means one for each usable core.
        cache_gib: Size of the cache for shards behind a URL, as for `open_data`.
        on_progress: Called with the stage, the number of finished items and of all items.

    Returns:
        The index of all shards.

    Raises:
        ConfigError: If the data set has no files to list, `out` lies inside the data set, holds other files or was
            packed from other images or with other options, or if a class has no image left.
        BadDataError: If images cannot be read and must not be skipped. Complete shards stay in `out`.
        OSError: If the folder cannot be written.
    """
    kind = detect_kind(config)
    if kind not in LISTED_KINDS:
        raise ConfigError(
            f"{config.name} is small and needs no packing; give a folder or table of images, parquet files or shards"
        )
    if not is_url(config.name) and out.resolve().is_relative_to(dataset_path(config.name).resolve()):
        raise ConfigError(f"{out} lies inside {config.name}, the data to pack; give a folder outside it with --out")
    listing = list_dataset(config, cache_gib)
    if listing.is_multi_label:
        raise ConfigError(f"shards hold one class an image, and images of {config.name} have several labels")
    report, threads = on_progress or (lambda stage, done, total: None), workers or usable_cores()
    with lock_dir(out, "packing"), _name_folder_in_errors(out):
        manifest = packing_manifest(config, listing, options)
        remove_temporary_files(out)
        completed = read_completed(out, manifest, skip=config.on_bad_image == "skip")
        damaged = {}
        if completed is not None:
            damaged = find_damaged(out, threads, lambda done, total: report("checking", done, total))
            if not damaged:
                (out / PACK_PLAN_FILE).unlink(missing_ok=True)
                return completed
        for split in listing.splits.values():
            confirm_shards(split.storage)  # of images that stay as they are, only the header is read
        start_packing(out, manifest, damaged)
        shards = _write_shards(config, listing, out, options=options, workers=threads, report=report)
        try:
            check_skipped(listing, {split: _labels(written) for split, written in shards.items()})
        except ConfigError:
            if completed is None:  # replacing the bad images would change the manifest
                clear_packing(out)
            raise
        index = ShardIndex(
            classes=listing.classes,
            splits={split: tuple(shard.entry for shard in written) for split, written in shards.items()},
            left_out=tuple(reason for written in shards.values() for shard in written for reason in shard.bad),
            warnings=listing.warnings,
            packed=manifest,
        )
        write_atomic(out / INDEX_FILE, index.to_json())
        (out / PACK_PLAN_FILE).unlink()
    return index


@contextmanager
def _name_folder_in_errors(out: Path) -> Iterator[None]:
    """Add the folder and a remedy to errors of the file system."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{out} cannot be written ({error.strerror or error}); solve this, then run the same command again: "
            "complete shards stay"
        ) from error


def _write_shards(
    config: DataConfig, listing: DatasetListing, out: Path, *, options: PackOptions, workers: int, report: Progress
) -> dict[str, list[WrittenShard]]:
    """Write every shard that is missing; return the shards of each split, in order."""
    max_pixels, total = config.max_megapixels * 1_000_000, sum(map(len, listing.splits.values()))
    plans = {name: plan_shards(name, split, options, max_pixels=max_pixels) for name, split in listing.splits.items()}
    skip, done, lock = config.on_bad_image == "skip", 0, threading.Lock()

    def write(plan: ShardPlan) -> WrittenShard:
        nonlocal done
        shard = read_written(out, plan, skip=skip)
        if shard is None:
            shard = write_shard(out, plan, listing, options=options, max_pixels=max_pixels, skip=skip)
        with lock:
            done += len(plan.rows)
            report("packing", done, total)
        return shard

    pool = ThreadPoolExecutor(workers)
    try:
        return {name: list(pool.map(write, split_plans)) for name, split_plans in plans.items()}
    except BadShardError as error:
        # Shards after the first one with bad images are not read.
        num_shards = sum(map(len, plans.values()))
        raise BadDataError(error.bad, total, config.name, is_complete=num_shards == 1) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _labels(shards: Iterable[WrittenShard]) -> frozenset[int]:
    return frozenset[int]().union(*(shard.labels for shard in shards))


def plan_shards(split: str, listing: SplitListing, options: PackOptions, *, max_pixels: int) -> list[ShardPlan]:
    """Shuffle the samples of a split with a fixed seed, and divide them into shards of equal numbers of samples."""
    names = listing.names if isinstance(listing.names, PackedStrings) else PackedStrings.from_strings(listing.names)
    canonical = np.lexsort((names.sortable(), np.asarray(listing.labels, np.int64)))
    order = canonical[torch.randperm(len(listing), generator=make_generator(0, "pack", split)).numpy()]
    sizes = []
    for storage in take_items(listing.storage, order[:NUM_MEASURED]):
        with suppress(BadImageError, OSError):
            sizes.append(len(encode_sample(read_image_bytes(storage), options, max_pixels).data))
    sample_bytes = (sum(sizes) / len(sizes) if sizes else 0) + SAMPLE_OVERHEAD_BYTES
    num_shards = -(-int(len(listing) * sample_bytes) // (options.shard_mib << 20))
    num_shards = max(1, min(num_shards, len(listing)))  # a single image may be larger than `shard_mib`
    starts = [len(listing) * number // num_shards for number in range(num_shards + 1)]
    return [
        ShardPlan(split, number, first_key=start, rows=order[start:end])
        for number, (start, end) in enumerate(pairwise(starts))
    ]
