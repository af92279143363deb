"""One split of a data set for evaluation, preprocessed as a given network requires."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from resnetlab.config import ConfigError, DataConfig, Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.images.packed_sequences import concatenate
from resnetlab.data.images.scan import Progress
from resnetlab.data.list_dataset import list_dataset
from resnetlab.data.listing import DatasetListing
from resnetlab.data.open_dataset import open_data, open_listing
from resnetlab.data.readers.cifar_mnist import read_archive
from resnetlab.data.registry import LISTED_KINDS, dataset_title, detect_kind, is_same_data
from resnetlab.data.residency import choose_color_profiles, choose_view
from resnetlab.system.cache_folder import CACHE_GIB

NO_SIZES = torch.empty(0, 2, dtype=torch.int64)
SPLITS = ("test", "val", "train", "all")
"""Splits that can be evaluated. A split that the data set does not come with is the one that training held out."""


@dataclass(frozen=True, kw_only=True)
class EvalDataset:
    """Labelled images for evaluation, and their origin."""

    config: DataConfig
    classes: tuple[str, ...]
    split_name: str
    """One of `SPLITS`."""
    split: Split
    view: EvalView
    """The evaluation view of the network."""
    seen_in_training: bool
    """Whether the network was trained on some of these images."""
    skipped: tuple[str, ...] = ()
    """Images that were left out because they cannot be read, each as `NAME: REASON`."""
    warnings: tuple[str, ...] = ()
    fingerprint: str | None = None
    """Fingerprint of all splits of the data set; `None` if only one split that the data come with was read."""
    listing: DatasetListing | None = None
    """The listing of a folder, of parquet files or of shards; `None` for a known data set."""

    @property
    def title(self) -> str:
        """The display name of the data set."""
        return dataset_title(self.config)


def open_eval_dataset(
    config: DataConfig,
    preprocessing: Preprocessing,
    split: str | None = None,
    *,
    trained_on: str | None = None,
    training_data: DataConfig | None = None,
    keep_encoded: bool = False,
    on_progress: Progress | None = None,
    cache_gib: float = CACHE_GIB,
) -> EvalDataset:
    """Open a split for evaluation; if the data come with this split, images of other splits are not read.

    Args:
        config: The data set, with the `split_seed` and `train_images` of training, so that held-out splits are the
            same.
        preprocessing: The network's preprocessing.
        split: One of `SPLITS`. If not given: the test split that the data come with, else their validation split,
            else the test split that training held out if the network was trained on these data, else all images.
        trained_on: Fingerprint of the data that the network was trained on.
        training_data: The data that the network was trained on. If `config` names them and their fingerprint is
            another one, a split that training held out cannot be drawn again.
        keep_encoded: As for `open_data` in training, because the fingerprint depends on it.
        on_progress: As for `open_data`.
        cache_gib: As for `open_data`.

    Raises:
        ConfigError: If the data set has no such split, if the split was held out of data that changed since training,
            and as for `open_data`.
    """
    config = replace(config, color_profiles=choose_color_profiles(config, preprocessing))
    listing = list_dataset(config, cache_gib, one_class=True) if detect_kind(config) in LISTED_KINDS else None
    available = own_splits(config, listing)
    name = split or next((candidate for candidate in ("test", "val") if candidate in available), None)
    all_images = name in (None, "all") and trained_on is None
    if listing and (all_images or (name in ("test", "val") and name in available)):
        return _open_listed_split(
            listing, config, preprocessing, name=name or "all", keep_encoded=keep_encoded, on_progress=on_progress
        )
    dataset = open_data(
        config,
        keep_encoded=keep_encoded,
        preprocessing=preprocessing,
        on_progress=on_progress,
        cache_gib=cache_gib,
        one_class=True,
    )
    same_data = dataset.fingerprint == trained_on
    is_trained_place = trained_on is not None and training_data is not None and is_same_data(config, training_data)
    changed = is_trained_place and not same_data
    # Folders that training did not read have no held-out part; all of their images are meant.
    other_folders = training_data is not None and config.split_folders != training_data.split_folders
    holds_out = same_data or (changed and not other_folders)
    name = name or ("test" if holds_out and len(dataset.test) else "all")
    if changed and name in ("test", "val") and name not in available:
        raise _cannot_draw_again(dataset.name)
    opened = concat_splits(list(dataset.splits.values())) if name == "all" else dataset.splits[name]
    if len(opened) == 0:
        names = ", ".join(name for name, candidate in dataset.splits.items() if len(candidate))
        raise ConfigError(f"{dataset.name} has no {name} split; use --split with one of: {names}, all")
    return EvalDataset(
        config=config,
        classes=dataset.classes,
        split_name=name,
        split=opened,
        view=choose_view(NO_SIZES, config, preprocessing),
        seen_in_training=(same_data or changed) and name in ("train", "all"),
        skipped=dataset.skipped,
        warnings=dataset.warnings,
        fingerprint=dataset.fingerprint,
        listing=listing,
    )


def own_splits(config: DataConfig, listing: DatasetListing | None) -> tuple[str, ...]:
    """Return the splits that a data set comes with; `listing` is `None` for a known data set."""
    if listing is not None:
        return tuple(listing.splits)
    return SPLITS[:3] if detect_kind(config) == "digits" else ("train", "test")


def _cannot_draw_again(name: str) -> ConfigError:
    """Return the error of a split that training held out of data that changed since."""
    return ConfigError(
        f"{name} changed since training, or is read otherwise, so the images that training held out cannot be drawn "
        "again; give new images in a folder of their own with --data, train again, or use --split all, which has "
        "trained images too"
    )


def _open_listed_split(
    listing: DatasetListing,
    config: DataConfig,
    preprocessing: Preprocessing,
    *,
    name: str,
    keep_encoded: bool,
    on_progress: Progress | None,
) -> EvalDataset:
    """Open a split that the data come with, or all images; nothing is held out."""
    requested = replace(listing, splits={name: listing.splits[name]}) if name in listing.splits else listing
    split, skipped = open_listing(requested, config, preprocessing, keep_encoded=keep_encoded, on_progress=on_progress)
    return EvalDataset(
        config=config,
        classes=listing.classes,
        split_name=name,
        split=split,
        view=choose_view(NO_SIZES, config, preprocessing),
        seen_in_training=False,
        skipped=skipped,
        warnings=listing.warnings,
        listing=listing,
    )


def concat_splits(splits: Sequence[Split]) -> Split:
    """Concatenate splits of one data set, in their order."""
    splits = [split for split in splits if len(split)]
    labels, names = torch.cat([split.labels for split in splits]), concatenate([split.names for split in splits])
    encoded = [split.images for split in splits if isinstance(split.images, EncodedImages)]
    if not encoded:
        return Split(torch.cat([split.images for split in splits if isinstance(split.images, Tensor)]), labels, names)
    storage = concatenate([images.storage for images in encoded])
    sizes = torch.cat([images.sizes for images in encoded])
    return Split(replace(encoded[0], storage=storage, names=names, sizes=sizes), labels, names)


def original_images(dataset: EvalDataset) -> Tensor | EncodedImages:
    """Return the images of a split before any resizing, in the same order.

    They are resident, uint8 of shape (num_samples, channels, height, width), or encoded.
    """
    config, images, names = dataset.config, dataset.split.images, dataset.split.names
    if isinstance(images, EncodedImages):
        return images
    if dataset.listing is not None:
        listings = dataset.listing.splits.values()
        storage = dict(pair for split in listings for pair in zip(split.names, split.storage, strict=True))
        return EncodedImages(
            storage=[storage[name] for name in names],
            names=names,
            sizes=torch.zeros(len(names), 2, dtype=torch.int64),  # unknown: whole images are decoded
            view=dataset.view,
            skip_bad=config.on_bad_image == "skip",
            max_pixels=config.max_megapixels * 1_000_000,
        )
    if detect_kind(config) == "digits":  # the split is drawn from row numbers, so it does not depend on the image size
        data = open_data(replace(config, image_size=None))
        whole = dataset.split_name == "all"
        split = concat_splits(list(data.splits.values())) if whole else data.splits[dataset.split_name]
        assert isinstance(split.images, Tensor)
        return split.images
    archive = read_archive(config)
    rows = {name: row for row, name in enumerate(archive.train.names + archive.test.names)}
    return torch.cat([archive.train.images, archive.test.images])[[rows[name] for name in names]]
