"""From a name or a path to images, labels, classes and splits, the same whatever they were packed in.

Samples stand in a canonical order before anything is drawn: by label, then by a hash of the pixels (images that stay
encoded: by name). Equal images therefore give equal splits, batches and fingerprints, be they in a folder tree, in
parquet files or in the authors' archive, in whatever order and under whatever names.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import DataConfig, Preprocessing
from resnetlab.data.dataset import Dataset, Split
from resnetlab.data.images.decode import decode_eval_view
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.packed_sequences import PackedStrings, concatenate, take_items
from resnetlab.data.images.scan import BadDataError, Progress, scan_images, stage_progress
from resnetlab.data.normalisation import channel_normalisation
from resnetlab.data.readers.cifar_mnist import read_archive
from resnetlab.data.readers.folder import list_folder
from resnetlab.data.readers.parquet import list_parquet
from resnetlab.data.registry import (
    DatasetListing,
    check_skipped,
    dataset_path,
    dataset_title,
    describe_classes,
    detect_kind,
    is_address,
)
from resnetlab.data.residency import eval_geometry, image_sizes, resize_known, shard_numbers, stays_resident
from resnetlab.data.shards.format import list_shards
from resnetlab.data.shards.remote import CACHE_GIB, list_remote
from resnetlab.data.splits import stratified_split, stratified_subset
from resnetlab.system.cores import usable_cores

__all__ = ["open_data", "list_dataset", "Dataset", "Split"]

HELD_OUT = {"val": 0.1}
"""What is taken from the training images where there is no validation split: 5,000 of CIFAR-10's (section 4.2)."""


@dataclass(frozen=True)
class _Open:
    """Every image of a data set in one place, and the canonical order of each split as it came."""

    images: Tensor | EncodedImages
    labels: Tensor
    names: Sequence[str]
    orders: Mapping[str, Tensor]
    """Positions, int64, of the images of `train`, `val` and `test`, or of `all`, without the bad ones."""
    crop_ratio: float
    shards: Tensor | None = None
    """int64 (number of images,): the shard each lies in, where shards have to be read one after the other."""

    def take(self, positions: Tensor) -> Split:
        """Return some images as a split, in the order of positions, or in that in which they can be read."""
        canonical = None
        if self.shards is not None:
            positions, place = positions.sort()
            canonical = place.argsort()
        images = self.images[positions] if isinstance(self.images, Tensor) else self.images.subset(positions)
        shards = None if self.shards is None else self.shards[positions]
        return Split(images, self.labels[positions], take_items(self.names, positions.numpy()), shards, canonical)


def open_data(
    config: DataConfig,
    *,
    workers: int | None = None,
    on_progress: Progress | None = None,
    keep_encoded: bool = False,
    seen_as: Preprocessing | None = None,
    cache_gib: float = CACHE_GIB,
) -> Dataset:
    """Open the data set that a configuration names, each image looked at once.

    What has no validation split gets one of 10 % of the training images, what has no splits at all 10 % each for
    validation and test, class by class. Images are resident, decoded to the size the network sees, where that takes at
    most `config.resident_mib`, or an eighth of it if they differ in size: views of photographs are poor material for
    crops. Known archives always are. Other images stay encoded, and only their headers are read.

    Args:
        config: What to open, and how.
        workers: Threads that decode; as many as there are usable cores if not given.
        on_progress: Told the stage, the images done and their number, from this thread.
        keep_encoded: Keep images encoded that differ in size or are larger than what the network sees, for recipes
            that crop from the original.
        seen_as: How a network sees them that is there already, in place of a size and statistics of their own.
        cache_gib: GiB of the cache for shards behind an address, at most.

    Raises:
        ConfigError: where the data are not there, in another layout, or damaged; or a class has nothing to train on.
        BadDataError: where some images cannot be read and `config.on_bad_image` is `fail`.
    """
    kind = detect_kind(config)
    tell = on_progress or (lambda stage_progress, done, total: None)
    if kind == "digits":
        return _digits(config, workers, tell, seen_as)
    if kind in ("cifar", "idx"):
        archive = read_archive(config)
        parts = {"train": archive.train, "test": archive.test}
        images, ratio = resize_known(
            torch.cat([part.images for part in parts.values()]), config, workers, tell, seen_as
        )
        labels = torch.cat([part.labels for part in parts.values()])
        digests = [_digest(image) for image in images.numpy()]
        orders = _orders({split: len(part.labels) for split, part in parts.items()}, labels, digests)
        opened = _Open(images, labels, archive.train.names + archive.test.names, orders, ratio)
        return _dataset(config, archive.classes, opened, workers, seen_as, warnings=archive.warnings)
    contents = list_dataset(config, cache_gib)
    opened, bad = _open_contents(contents, config, keep_encoded, workers, tell, seen_as)
    check_skipped(contents, {split: opened.labels[order].tolist() for split, order in opened.orders.items()})
    return _dataset(config, contents.classes, opened, workers, seen_as, tuple(bad), contents.warnings)


def open_listing(
    contents: DatasetListing,
    config: DataConfig,
    seen_as: Preprocessing,
    *,
    keep_encoded: bool = False,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> tuple[Split, tuple[str, ...]]:
    """Open all the images of a listing as one split, in canonical order; nothing is held out.

    Returns:
        The split, and each image that was left out, as `NAME: REASON`.

    Raises:
        BadDataError: where some images cannot be read and `config.on_bad_image` is `fail`, or none can.
    """
    tell = on_progress or (lambda stage_progress, done, total: None)
    opened, bad = _open_contents(contents, config, keep_encoded, workers, tell, seen_as)
    return opened.take(torch.cat(list(opened.orders.values()))), tuple(bad)


def list_dataset(config: DataConfig, cache_gib: float = CACHE_GIB) -> DatasetListing:
    """List the images of a folder tree, of parquet files or of shards, whichever the path is; no image is decoded.

    Shards behind an address are kept in a cache of `cache_gib` GiB at most.

    Raises:
        ConfigError: as `list_folder`, `list_parquet`, `list_shards` and `list_remote` do.
        RemoteError: where an address does not answer.
    """
    path, kind = dataset_path(config.name), detect_kind(config)
    if kind == "shards":
        return list_remote(config, cache_gib) if is_address(config.name) else list_shards(path)
    return list_folder(path) if kind == "folder" else list_parquet(path)


def _digits(config: DataConfig, workers: int | None, tell: Progress, seen_as: Preprocessing | None) -> Dataset:
    """Open the UCI optical digits as scikit-learn ships them, split 70 / 15 / 15 %, each class alike."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    grey = np.rint(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)  # 0 … 16 in the file
    everything = np.arange(len(labels))
    train, rest = train_test_split(everything, test_size=540, stratify=labels, random_state=config.split_seed)
    if config.train_images is not None:
        train = train[
            stratified_subset(torch.from_numpy(labels[train]), config.train_images, config.split_seed).numpy()
        ]
    val, test = train_test_split(rest, test_size=270, stratify=labels[rest], random_state=config.split_seed)
    seen, ratio = resize_known(torch.from_numpy(grey), config, workers, tell, seen_as)

    def split(rows: Any) -> Split:
        return Split(seen[torch.from_numpy(rows)], torch.from_numpy(labels[rows].astype(np.int64)))

    classes = tuple("0123456789")
    preprocessing = seen_as or channel_normalisation(split(train), ratio)
    return Dataset("digits", classes, preprocessing, split(train), split(val), split(test))


def _open_contents(
    contents: DatasetListing,
    config: DataConfig,
    keep_encoded: bool,
    workers: int | None,
    tell: Progress,
    seen_as: Preprocessing | None,
) -> tuple[_Open, list[str]]:
    """Read the size of every image, decide how they are kept, and decode those that are to be resident."""
    listings = contents.splits.values()
    names, places = (
        concatenate([listing.names for listing in listings]),
        concatenate([listing.places for listing in listings]),
    )
    labels = torch.from_numpy(np.concatenate([np.asarray(listing.labels, np.int64) for listing in listings]))
    lengths = {split: len(listing) for split, listing in contents.splits.items()}
    max_pixels = config.max_megapixels * 1_000_000
    sizes, bad = image_sizes(contents, names, places, max_pixels, workers, tell)
    seen = sizes[:, 0] > 0
    good = sizes[seen]
    if len(good) == 0:
        raise BadDataError(bad, len(names), config.name)
    size, ratio = eval_geometry(good, config.image_size, seen_as)
    if not stays_resident(good, size, config, keep_encoded):
        _refuse(bad, len(names), config)
        skip = config.on_bad_image == "skip"
        keys = names if bool(seen.all()) else [name if ok else None for name, ok in zip(names, seen, strict=True)]
        images = EncodedImages(places, names, sizes, size, ratio, skip, max_pixels)
        return _Open(images, labels, names, _orders(lengths, labels, keys), ratio, shard_numbers(contents)), bad
    fit = torch.nonzero(seen).flatten().tolist()
    pixels = np.zeros((len(names), 3, size, size), np.uint8)

    def look(position: int, data: bytes) -> bytes:
        at = fit[position]
        pixels[at] = decode_eval_view(data, size, ratio, max_pixels).transpose(2, 0, 1)
        return _digest(pixels[at])

    names_fit, places_fit = take_items(names, np.array(fit)), take_items(places, np.array(fit))
    digests, more = scan_images(
        names_fit, places_fit, look, workers=workers, on_progress=stage_progress(tell, "decoding")
    )
    _refuse(bad + more, len(names), config)
    by_position = dict(zip(fit, digests, strict=True))
    orders = _orders(lengths, labels, [by_position.get(at) for at in range(len(names))])
    return _Open(torch.from_numpy(pixels), labels, names, orders, ratio), bad + more


def _orders(
    lengths: Mapping[str, int], labels: Tensor, keys: Sequence[bytes | None] | Sequence[str | None] | PackedStrings
) -> dict[str, Tensor]:
    """Put the positions of each split into canonical order: by label, then by key; those without a key are left out."""
    orders, start = {}, 0
    for split, length in lengths.items():
        own = slice(start, start + length)
        if isinstance(keys, PackedStrings):
            texts = keys.take(np.arange(start, start + length))
            there = np.lexsort((texts.sortable(), labels[own].numpy())) + start
            orders[split] = torch.from_numpy(there)
        else:
            numbers = labels.tolist()
            there = [at for at in range(start, start + length) if keys[at] is not None]
            orders[split] = torch.tensor(sorted(there, key=lambda at: (numbers[at], keys[at])), dtype=torch.int64)
        start += length
    return orders


def _dataset(
    config: DataConfig,
    classes: tuple[str, ...],
    opened: _Open,
    workers: int | None,
    seen_as: Preprocessing | None,
    skipped: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
) -> Dataset:
    """Split what was not split, and compute what normalises the training images."""
    orders = dict(opened.orders)
    whole = orders.pop("all", None)
    held_out = HELD_OUT | {"test": 0.1} if whole is not None else HELD_OUT if "val" not in orders else {}
    if held_out:
        source = whole if whole is not None else orders["train"]
        parts = stratified_split(opened.labels[source], held_out, config.split_seed)
        orders |= {name: source[rows] for name, rows in parts.items()}
        for name in held_out:
            rare = sorted(set(opened.labels[source].tolist()) - set(opened.labels[orders[name]].tolist()))
            if rare:
                listed = describe_classes([classes[label] for label in rare])
                warnings += (f"too few images to split: {name} has no image of {listed}",)
    if config.train_images is not None:
        orders["train"] = orders["train"][
            stratified_subset(opened.labels[orders["train"]], config.train_images, config.split_seed)
        ]
    if "test" not in orders:
        warnings += ("there is no test split: the test error will be missing",)
    nothing = torch.empty(0, dtype=torch.int64)
    train, val, test = (opened.take(orders.get(name, nothing)) for name in ("train", "val", "test"))
    preprocessing = seen_as or channel_normalisation(train, opened.crop_ratio, workers or usable_cores())
    return Dataset(dataset_title(config), classes, preprocessing, train, val, test, skipped, warnings)


def _refuse(bad: list[str], total: int, config: DataConfig) -> None:
    if bad and config.on_bad_image == "fail":
        raise BadDataError(bad, total, config.name)


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
