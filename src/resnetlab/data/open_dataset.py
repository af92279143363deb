"""Opening a data set: from a name or path to images, labels, classes and splits.

The container format does not change the result. Samples are put into a canonical order first: by label, then by a hash
of the pixels (encoded images: by name). Equal images therefore give equal splits, batches and fingerprints, whether
they come from a folder tree, from parquet files or from the authors' archive. For resident images, their order and
names do not matter either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import DataConfig, Preprocessing
from resnetlab.data.dataset import Dataset, Split
from resnetlab.data.images.scan import Progress
from resnetlab.data.list_dataset import list_dataset
from resnetlab.data.listing import DatasetListing, check_skipped, describe_classes, describe_listing
from resnetlab.data.normalisation import channel_normalisation
from resnetlab.data.open_images import OpenImages, canonical_orders, image_digest, open_images
from resnetlab.data.readers.cifar_mnist import read_archive
from resnetlab.data.registry import dataset_title, detect_kind
from resnetlab.data.residency import choose_color_profiles, resize_known
from resnetlab.data.splits import classes_of, draw_splits, missing_splits, stratified_subset
from resnetlab.serialization import check_type
from resnetlab.system.cache_folder import CACHE_GIB
from resnetlab.system.cores import usable_cores


def open_data(
    config: DataConfig,
    *,
    workers: int | None = None,
    on_progress: Progress | None = None,
    keep_encoded: bool = False,
    preprocessing: Preprocessing | None = None,
    cache_gib: float = CACHE_GIB,
    one_class: bool = False,
) -> Dataset:
    """Open the data set that a configuration names.

    Missing splits are drawn class by class: 10 % of the training images for validation if only that split is missing,
    and 10 % each for validation and test if the data have no splits at all.

    Images are decoded once, at the size of the network's input, and stored in memory if they need at most
    `config.resident_mib`. Images that differ in size may need only an eighth of it, because a crop from a resized
    photograph is a poor substitute for a crop from the original. Archives of known data sets are always resident.
    Other images stay encoded, and only their headers are read.

    Args:
        config: The data set and how to open it.
        workers: Number of threads that decode; the number of usable cores if not given.
        on_progress: Called from this thread with the stage, the number of images done, and the number of all images.
        keep_encoded: Keep images encoded that differ in size or are larger than the network's input, for recipes
            that crop from the original.
        preprocessing: Preprocessing of an existing network; computed from the training split if not given.
        cache_gib: Maximum size of the cache for remote shards, in GiB.
        one_class: Accept data of a single class, on which a network can be evaluated but not trained.

    Raises:
        ConfigError: If the data are missing, damaged or in an unsupported layout, or a class has no training image.
        BadDataError: If images cannot be read and `config.on_bad_image` is `fail`.
    """
    check_type("config", config, DataConfig, example="resnetlab.DataConfig('digits')")
    kind = detect_kind(config)
    report = on_progress or _ignore_progress
    if kind == "digits":
        return _open_digits(config, workers, report, preprocessing)
    if kind in ("cifar", "idx"):
        return _open_archive(config, workers, report, preprocessing)
    listing = list_dataset(config, cache_gib, one_class=one_class)
    opened, bad = open_images(
        listing,
        config,
        keep_encoded=keep_encoded,
        workers=workers,
        on_progress=report,
        preprocessing=preprocessing,
    )
    check_skipped(listing, {split: classes_of(opened.labels[order]) for split, order in opened.orders.items()})
    return _make_dataset(
        config,
        opened,
        listing.classes,
        workers=workers,
        preprocessing=preprocessing,
        skipped=tuple(bad),
        warnings=listing.warnings,
        reading=(
            *describe_listing(listing),
            *(group.line for group in listing.left_out if group.line not in listing.warnings),
        ),
    )


def open_listing(
    listing: DatasetListing,
    config: DataConfig,
    preprocessing: Preprocessing,
    *,
    keep_encoded: bool = False,
    on_progress: Progress | None = None,
) -> tuple[Split, tuple[str, ...]]:
    """Open all images of a listing as one split in canonical order, without holding any out.

    Returns:
        The split, and each image that was left out, as `NAME: REASON`.

    Raises:
        BadDataError: If images cannot be read and `config.on_bad_image` is `fail`, or if no image can be read.
    """
    opened, bad = open_images(
        listing,
        config,
        keep_encoded=keep_encoded,
        workers=None,
        on_progress=on_progress or _ignore_progress,
        preprocessing=preprocessing,
    )
    return opened.take(torch.cat(list(opened.orders.values()))), tuple(bad)


def _ignore_progress(stage: str, done: int, total: int) -> None:
    pass


def _open_archive(
    config: DataConfig, workers: int | None, on_progress: Progress, preprocessing: Preprocessing | None
) -> Dataset:
    """Open a known data set from its authors' archive, always resident."""
    archive = read_archive(config)
    parts = {"train": archive.train, "test": archive.test}
    images = torch.cat([part.images for part in parts.values()])
    images, ratio = resize_known(images, config, preprocessing, workers=workers, on_progress=on_progress)
    labels = torch.cat([part.labels for part in parts.values()])
    digests = [image_digest(image) for image in images.numpy()]
    opened = OpenImages(
        images=images,
        labels=labels,
        names=archive.train.names + archive.test.names,
        orders=canonical_orders({split: len(part.labels) for split, part in parts.items()}, labels, digests),
        crop_ratio=ratio,
    )
    return _make_dataset(
        config,
        opened,
        archive.classes,
        workers=workers,
        preprocessing=preprocessing,
        warnings=archive.warnings,
    )


def _open_digits(
    config: DataConfig, workers: int | None, on_progress: Progress, preprocessing: Preprocessing | None
) -> Dataset:
    """Open the UCI optical digits as shipped with scikit-learn, in a stratified split of 70 / 15 / 15 %."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    grey = np.rint(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)  # the file has values 0 to 16
    seed = config.split_seed
    train, rest = train_test_split(np.arange(len(labels)), test_size=540, stratify=labels, random_state=seed)
    if config.train_images is not None:
        train = train[stratified_subset(torch.from_numpy(labels[train]), config.train_images, seed).numpy()]
    val, test = train_test_split(rest, test_size=270, stratify=labels[rest], random_state=seed)
    resized, ratio = resize_known(
        torch.from_numpy(grey), config, preprocessing, workers=workers, on_progress=on_progress
    )

    def split(rows: Any) -> Split:  # scikit-learn declares no usable type
        return Split(resized[torch.from_numpy(rows)], torch.from_numpy(labels[rows].astype(np.int64)))

    return Dataset(
        name="digits",
        classes=tuple("0123456789"),
        preprocessing=_with_color_profiles(config, preprocessing or channel_normalisation(split(train), ratio)),
        train=split(train),
        val=split(val),
        test=split(test),
    )


def _with_color_profiles(config: DataConfig, preprocessing: Preprocessing) -> Preprocessing:
    """Return a preprocessing that treats colour profiles as the images of the data set were treated."""
    return replace(preprocessing, color_profiles=choose_color_profiles(config, preprocessing))


def _make_dataset(
    config: DataConfig,
    opened: OpenImages,
    classes: tuple[str, ...],
    *,
    workers: int | None,
    preprocessing: Preprocessing | None,
    skipped: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
    reading: tuple[str, ...] = (),
) -> Dataset:
    """Draw missing splits and compute the normalisation of the training split."""
    orders, seed = dict(opened.orders), config.split_seed
    source, held_out = missing_splits(orders)
    if held_out:
        whole = orders.pop(source)
        labels = opened.labels[whole]
        orders |= {name: whole[rows] for name, rows in draw_splits(labels, held_out, seed).items()}
        for name in held_out:
            rare = sorted(set(classes_of(labels)) - set(classes_of(opened.labels[orders[name]])))
            if rare:
                described = describe_classes([classes[label] for label in rare])
                warnings += (f"too few images to split: {name} has no image of {described}",)
        warnings += _copies_warning(opened, orders, list(held_out))
    if config.train_images is not None:
        train_order = orders["train"]
        orders["train"] = train_order[stratified_subset(opened.labels[train_order], config.train_images, seed)]
    empty = torch.empty(0, dtype=torch.int64)
    train, val, test = (opened.take(orders.get(name, empty)) for name in ("train", "val", "test"))
    return Dataset(
        name=dataset_title(config),
        classes=classes,
        preprocessing=_with_color_profiles(
            config, preprocessing or channel_normalisation(train, opened.crop_ratio, workers or usable_cores())
        ),
        train=train,
        val=val,
        test=test,
        skipped=skipped,
        warnings=warnings,
        reading=reading,
    )


def _copies_warning(opened: OpenImages, orders: Mapping[str, Tensor], drawn: Sequence[str]) -> tuple[str, ...]:
    """Return a warning if drawn splits hold resident images whose pixels are those of a training image."""
    if opened.digests is None:
        return ()
    digests = opened.digests
    trained = {digests[row] for row in orders["train"].tolist()}
    counts = {split: sum(digests[row] in trained for row in orders[split].tolist()) for split in drawn}
    found = ", ".join(f"{count:,} of {split}" for split, count in counts.items() if count)
    if not found:
        return ()
    return (
        f"drawn splits have exact copies of training images ({found}); remove the copies, or make the splits yourself",
    )
