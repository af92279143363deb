"""`resnetlab data check PATH`: every image is decoded once, and what is found is told; `data pack`: into shards."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from resnetlab.cli.data_check_output import DatasetReport, ImageInfo, duplicates_between, print_summary, summarise
from resnetlab.config import ConfigError, DataConfig


@dataclass(frozen=True)
class Options:
    """Check a data set: counts for each class, sizes, exact duplicates, files that cannot be read. Or pack it.

    Every image is decoded once. Duplicates are found by a hash of the encoded bytes: the same picture saved twice in
    different ways is not one. Of shards the SHA-256 is verified too. The exit status is 1 where an image cannot be
    read.

    pack writes tar files in WebDataset's naming, with an index, into the folder --out: some hundred large files in
    place of a million small ones, to be read from a disk, a network or an address. The same command goes on where it
    was stopped.
    """

    action: Annotated[Literal["check", "pack"], tyro.conf.Positional]
    """What to do."""
    path: Annotated[str, tyro.conf.Positional]
    """A folder of images, of parquet files or of shards, a parquet file, the address of shards, or a known name such as
    cifar10."""
    out: Path | None = None
    """pack: the folder of shards, which is made."""
    max_side: int | None = None
    """pack: make images whose shorter side is above this so small, as JPEG of quality 90; as they are if not given."""
    shard_mib: int = 256
    """pack: size of a shard in MiB, about."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """pack: stop at images that cannot be read, or leave them out and list them in the index."""
    data_root: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where the archives of a known data set lie, or the cache of an address; the user's cache folder if not given."""
    workers: int | None = None
    """Threads that decode, or that write a shard each; as many as there are usable cores if not given."""
    max_megapixels: int = 100
    """Images that claim more count as bad."""
    cache_gib: float = 10.0
    """Size of the cache for shards behind an address, in GiB; it lies in --data-root, or in the user's cache
    folder."""
    json: bool = False
    """Print one JSON object instead of tables."""


PACKS = ("out", "max_side", "shard_mib", "on_bad_image")
"""Options that only pack has a use for."""


def run(options: Options) -> int:
    """Check a data set, or pack it; return 1 where an image cannot be read, else 0.

    Raises:
        ConfigError: where the data are not there or in a layout that cannot be opened.
    """
    config = DataConfig(
        options.path, options.data_root, on_bad_image=options.on_bad_image, max_megapixels=options.max_megapixels
    )
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"workers must be at least 1, not {options.workers}")
    if not 0 < options.cache_gib < math.inf:
        raise ConfigError(f"cache-gib must be above 0, and a number, not {options.cache_gib:g}")
    if options.action == "pack":
        return _pack(options, config)
    packs = [name for name in PACKS if getattr(options, name) != Options.__dataclass_fields__[name].default]
    if packs:
        raise ConfigError(f"--{packs[0].replace('_', '-')} is for pack, and check changes nothing; leave it out")
    found = scan_dataset(config, options.workers, options.cache_gib)
    summaries = {split: summarise(found, split) for split in found.splits}
    pairs = duplicates_between(found)
    if options.json:
        said = {
            "name": options.path,
            "splits": {split: asdict(summary) for split, summary in summaries.items()},
            "duplicates_between": [{first.split: first.name, second.split: second.name} for first, second in pairs],
            "bad": found.bad,
            "warnings": found.warnings,
        }
        print(json.dumps(said, ensure_ascii=False))
    else:
        print_summary(found, summaries, pairs)
    return 1 if found.bad else 0


def _pack(options: Options, config: DataConfig) -> int:
    if options.out is None:
        raise ConfigError("pack needs a folder to write the shards into; give it with --out")
    from resnetlab.cli.data_pack_output import run_pack

    return run_pack(
        config,
        options.out,
        max_side=options.max_side,
        shard_mib=options.shard_mib,
        workers=options.workers,
        cache_gib=options.cache_gib,
        as_json=options.json,
    )


def scan_dataset(config: DataConfig, workers: int | None, cache_gib: float) -> DatasetReport:
    """Decode every image of a data set, with a progress bar on stderr; `cache_gib` is as for `open_data`.

    Raises:
        ConfigError: as `open_data` does; images that cannot be read are listed instead.
    """
    from resnetlab.data.open_dataset import list_dataset, open_data
    from resnetlab.data.registry import LISTED, detect_kind

    kind = detect_kind(config)
    if kind in LISTED:
        return _look_through_files(list_dataset(config, cache_gib), config, workers)
    if kind == "digits":
        data = open_data(config)
        images = [image for split, some in data.splits.items() for image in _arrays(split, some, kind)]
        return DatasetReport(data.classes, tuple(data.splits), images, [], data.warnings)
    from resnetlab.data.readers.cifar_mnist import read_archive

    archive = read_archive(config)
    parts = {"train": archive.train, "test": archive.test}
    images = [image for split, some in parts.items() for image in _arrays(split, some, kind)]
    return DatasetReport(archive.classes, tuple(parts), images, [], archive.warnings)


def _look_through_files(contents: Any, config: DataConfig, workers: int | None) -> DatasetReport:
    import hashlib

    from rich.console import Console
    from rich.progress import Progress

    from resnetlab.data.images.decode import Header, decode, read_header
    from resnetlab.data.images.scan import scan_images

    max_pixels = config.max_megapixels * 1_000_000

    def look(position: int, data: bytes) -> tuple[Header, bytes]:
        header = read_header(data, max_pixels)
        decode(data, max_pixels)
        return header, hashlib.blake2b(data, digest_size=16).digest()

    images: list[ImageInfo] = []
    bad = _damaged_shards(config, workers)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for split, listing in contents.splits.items():
            task = bar.add_task(split, total=len(listing))

            def tell(done: int, total: int, task: Any = task) -> None:
                bar.update(task, completed=done)

            looks, more = scan_images(listing.names, listing.places, look, workers=workers, on_progress=tell)
            bad += more
            for name, label, seen in zip(listing.names, listing.labels, looks, strict=True):
                if seen is not None:
                    header, digest = seen
                    images.append(
                        ImageInfo(split, name, label, header.height, header.width, header.mode, header.format, digest)
                    )
    return DatasetReport(contents.classes, tuple(contents.splits), images, bad, contents.warnings)


def _damaged_shards(config: DataConfig, workers: int | None) -> list[str]:
    """Return which shards here are not as they were packed; of an address they are verified when they are fetched."""
    from resnetlab.data.registry import dataset_path, detect_kind, is_address
    from resnetlab.data.shards.format import find_damaged
    from resnetlab.system.cores import usable_cores

    if detect_kind(config) != "shards" or is_address(config.name):
        return []
    spoilt = find_damaged(dataset_path(config.name), workers or usable_cores())
    return [f"{name}: {reason}" for name, reason in spoilt.items()]


def _arrays(split: str, some: Any, kind: str) -> Iterator[ImageInfo]:
    """Yield what is known of images that come as arrays."""
    import hashlib

    channels, height, width = some.images.shape[1:]
    mode = "L" if channels == 1 else "RGB"
    for row, (image, label) in enumerate(zip(some.images.numpy(), some.labels.tolist(), strict=True)):
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        name = some.names[row] if some.names else f"image {row}"
        yield ImageInfo(split, name, label, height, width, mode, kind, digest)
