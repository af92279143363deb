"""Listing a data set: its images, labels, classes and splits, without decoding an image or loading PyTorch."""

from dataclasses import replace

from resnetlab.config import DataConfig
from resnetlab.data.listing import DatasetListing, check_num_classes
from resnetlab.data.readers.folder import list_folder
from resnetlab.data.readers.label_table import list_label_table
from resnetlab.data.readers.parquet import list_parquet
from resnetlab.data.registry import KIND_WORDS, LISTED_KINDS, dataset_path, detect_kind, is_url
from resnetlab.data.shards.local import list_shards
from resnetlab.data.split_names import parse_split_folders
from resnetlab.system.cache_folder import CACHE_GIB


def list_dataset(config: DataConfig, cache_gib: float = CACHE_GIB, *, one_class: bool = False) -> DatasetListing:
    """List the images of a folder tree, a table, parquet files or shards without decoding them.

    Remote shards are cached, with at most `cache_gib` GiB. Data of a single class are accepted with `one_class` alone.

    Raises:
        ConfigError: As for `list_folder`, `list_label_table`, `list_parquet`, `list_shards` and `list_remote`, and for
            a single class.
        RemoteError: If a server does not respond.
    """
    listing = _read_listing(config, cache_gib)
    if not one_class:
        check_num_classes(listing)
    return listing


def check_dataset(config: DataConfig) -> None:
    """Raise unless data of one's own have images of two classes. Known data sets and URLs are not opened.

    Raises:
        ConfigError: As for `list_dataset`.
    """
    if detect_kind(config) in LISTED_KINDS and not is_url(config.name):
        list_dataset(config)


def _read_listing(config: DataConfig, cache_gib: float) -> DatasetListing:
    path, kind = dataset_path(config.name), detect_kind(config)
    if kind == "shards":
        return replace(_list_shards(config, cache_gib), kind=KIND_WORDS[kind])
    split_folders = parse_split_folders(config.split_folders)
    if kind == "folder":
        return list_folder(path, split_folders)
    if kind == "table":
        return list_label_table(path)
    return list_parquet(path, split_folders, image_column=config.image_column, label_column=config.label_column)


def _list_shards(config: DataConfig, cache_gib: float) -> DatasetListing:
    if not is_url(config.name):
        return list_shards(dataset_path(config.name))
    from resnetlab.data.shards.remote import list_remote  # loads PyTorch

    return list_remote(config, cache_gib)
