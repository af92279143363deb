"""`resnetlab data`: check the images of a data set, or pack them into shards."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from resnetlab.cli.data_check_output import (
    DatasetReport,
    ImageInfo,
    duplicates_between,
    print_summary,
    reading_json,
    summarise,
)
from resnetlab.cli.data_options import Reading, ReadingOptions
from resnetlab.cli.output_paths import check_output_folder
from resnetlab.cli.terminal import print_json
from resnetlab.cli.unused_options import given_options
from resnetlab.config import ConfigError, DataConfig
from resnetlab.system.cache_folder import CACHE_GIB, check_cache_gib

if TYPE_CHECKING:
    from rich.progress import TaskID
    from torch import Tensor

    from resnetlab.data.images.decode import Header
    from resnetlab.data.images.encoded import EncodedImages
    from resnetlab.data.listing import DatasetListing


@dataclass(frozen=True)
class Options:
    """Check a data set, or pack it into shards.

    check decodes every image once and prints images per class, sizes, exact duplicates and files that cannot be read.
    Duplicates have the same encoded bytes; the same image saved in two formats is not found. The SHA-256 of shards is
    verified too. The exit status is 1 if an image cannot be read.

    pack writes tar files in WebDataset's naming, with an index, into the folder --out: some hundred large files
    instead of a million small ones, to be read from a disk, a network or a URL. The same command continues an
    unfinished packing.
    """

    action: Annotated[Literal["check", "pack"], tyro.conf.Positional]
    """Check the data, or pack them into shards."""
    path: Annotated[str, tyro.conf.Positional]
    """A folder of images, of parquet files or of shards, a table of labels (.csv, .tsv), a parquet file, the URL of
    shards, or a known name such as cifar10."""
    reading: Reading = ReadingOptions()
    out: Path | None = None
    """pack: the folder of shards, which is created."""
    max_side: int | None = None
    """pack: resize images whose shorter side is above this number of pixels, as JPEG of quality 90. By default images
    stay unchanged."""
    shard_mib: int = 256
    """pack: approximate size of a shard in MiB."""
    workers: int | None = None
    """Threads that decode images or write shards. By default one for each usable core."""
    max_megapixels: int = 100
    """Images with more megapixels count as bad."""
    cache_gib: float = CACHE_GIB
    """Size of the cache for remote shards, in GiB. It is in --data-root."""
    json: bool = False
    """Print one JSON object instead of tables."""


PACK_OPTIONS = ("out", "max_side", "shard_mib", "on_bad_image")
"""Options that only pack uses."""


def run(options: Options) -> int:
    """Check or pack a data set; return 1 if an image cannot be read, else 0.

    Raises:
        ConfigError: If the data are missing or have an unknown layout, or an option is invalid.
    """
    config = DataConfig(
        options.path,
        max_megapixels=options.max_megapixels,
        **options.reading.changes(),
    )
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"workers must be at least 1, not {options.workers}")
    check_cache_gib(options.cache_gib)
    if options.action == "pack":
        return _pack(options, config)
    unused = [name for name in PACK_OPTIONS if name in given_options(options)]
    if unused:
        raise ConfigError(f"--{unused[0].replace('_', '-')} requires pack, because check changes nothing; leave it out")
    report = scan_dataset(config, options.workers, options.cache_gib)
    summaries = {split: summarise(report, split) for split in report.splits}
    pairs = duplicates_between(report)
    if options.json:
        result = {
            "name": options.path,
            **reading_json(report),
            "splits": {split: asdict(summary) for split, summary in summaries.items()},
            "duplicates_between": [{first.split: first.name, second.split: second.name} for first, second in pairs],
            "bad": report.bad,
            "warnings": report.warnings,
        }
        print_json(result)
    else:
        print_summary(report, summaries, pairs)
    return 1 if report.bad else 0


def _pack(options: Options, config: DataConfig) -> int:
    if options.out is None:
        raise ConfigError("pack needs a folder for the shards; give it with --out")
    check_output_folder("--out", options.out)
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
        ConfigError: As for `open_data`, except that images that cannot be read are listed in the report.
    """
    from resnetlab.data.list_dataset import list_dataset
    from resnetlab.data.open_dataset import open_data
    from resnetlab.data.registry import LISTED_KINDS, detect_kind

    kind = detect_kind(config)
    if kind in LISTED_KINDS:
        return _scan_files(list_dataset(config, cache_gib), config, workers)
    if kind == "digits":
        digits = open_data(config)
        classes, warnings, splits = digits.classes, digits.warnings, digits.splits
    else:
        from resnetlab.data.readers.cifar_mnist import read_archive

        archive = read_archive(config)
        classes, warnings, splits = archive.classes, archive.warnings, {"train": archive.train, "test": archive.test}
    images = [
        image
        for split, samples in splits.items()
        for image in _describe_arrays(split, samples.images, samples.labels, names=samples.names, kind=kind)
    ]
    return DatasetReport(classes, tuple(splits), images, bad=[], warnings=warnings)


def _scan_files(dataset: "DatasetListing", config: DataConfig, workers: int | None) -> DatasetReport:
    """Decode the images of files or shards."""
    import hashlib

    from rich.progress import Progress

    from resnetlab.cli.console import open_console
    from resnetlab.data.images.color_profiles import profile_name
    from resnetlab.data.images.decode import Header, decode, embedded_profile, read_header
    from resnetlab.data.images.scan import scan_images
    from resnetlab.data.residency import choose_color_profiles

    max_pixels = config.max_megapixels * 1_000_000

    def read(position: int, data: bytes) -> tuple[Header, bytes, str]:
        header = read_header(data, max_pixels)
        decode(data, max_pixels, color_profiles=choose_color_profiles(config))
        profile = embedded_profile(data)
        name = profile_name(profile, header.mode) if profile else ""
        return header, hashlib.blake2b(data, digest_size=16).digest(), name

    images: list[ImageInfo] = []
    bad = _damaged_shards(config, workers)
    console = open_console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for split, listing in dataset.splits.items():
            task = bar.add_task(split, total=len(listing))

            def on_progress(done: int, total: int, task: "TaskID" = task) -> None:
                bar.update(task, completed=done)

            results, split_bad = scan_images(
                listing.names,
                listing.storage,
                read,
                workers=workers,
                on_progress=on_progress,
                skip_damaged_shards=True,
            )
            bad += split_bad
            rows = zip(listing.names, listing.labels_by_image(), results, strict=True)
            images += [_image_info(split, name, labels, *result) for name, labels, result in rows if result is not None]
    return DatasetReport(
        dataset.classes, tuple(dataset.splits), images, bad=bad, warnings=dataset.warnings, listing=dataset
    )


def _image_info(
    split: str, name: str, labels: tuple[int, ...], header: "Header", digest: bytes, profile: str
) -> ImageInfo:
    """Return what a report lists of an image of a file."""
    return ImageInfo(
        split=split,
        name=name,
        labels=labels,
        height=header.height,
        width=header.width,
        mode=header.mode,
        format=header.format,
        digest=digest,
        color_profile=profile,
    )


def _damaged_shards(config: DataConfig, workers: int | None) -> list[str]:
    """Return the damaged files of local shards, each as `NAME: REASON`. Remote shards are verified when downloaded."""
    from resnetlab.data.registry import dataset_path, detect_kind, is_url
    from resnetlab.data.shards.local import find_damaged
    from resnetlab.system.cores import usable_cores

    if detect_kind(config) != "shards" or is_url(config.name):
        return []
    damaged = find_damaged(dataset_path(config.name), workers or usable_cores())
    return [f"{name}: {reason}" for name, reason in damaged.items()]


def _describe_arrays(
    split: str, images: "Tensor | EncodedImages", labels: "Tensor", *, names: Sequence[str] | None, kind: str
) -> Iterator[ImageInfo]:
    """Yield the description of each image of a data set that has no encoded files."""
    import hashlib

    from torch import Tensor

    assert isinstance(images, Tensor)  # known data sets are small, so their images are resident
    channels, height, width = images.shape[1:]
    for row, (image, label) in enumerate(zip(images.numpy(), labels.tolist(), strict=True)):
        yield ImageInfo(
            split=split,
            name=names[row] if names else f"image {row}",
            labels=(label,),
            height=height,
            width=width,
            mode="L" if channels == 1 else "RGB",
            format=kind,
            digest=hashlib.blake2b(image.tobytes(), digest_size=16).digest(),
        )
