"""Known data sets, and detection of the kind of any data set from its name or path."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.clutter import is_shard_index
from resnetlab.data.readers.parquet_files import find_parquet_files
from resnetlab.data.readers.table_columns import find_tables, is_table
from resnetlab.data.readers.unread import file_remedy
from resnetlab.data.split_names import parse_split_folders
from resnetlab.extension import did_you_mean
from resnetlab.literature.class_names import CIFAR10, CIFAR100

Kind = Literal["digits", "cifar", "idx", "folder", "table", "parquet", "shards"]
LISTED_KINDS = ("folder", "table", "parquet", "shards")
"""Kinds of user data, whose images are listed before any is opened."""
KIND_WORDS: Mapping[Kind, str] = {
    "digits": "a known data set",
    "cifar": "a known data set",
    "idx": "a known data set",
    "folder": "a folder of images",
    "table": "a table of labels",
    "parquet": "parquet files",
    "shards": "shards",
}
"""Each kind in words, for output."""
INDEX_FILE = "index.json"
"""The file that marks a folder of shards."""
PACK_PLAN_FILE = ".packing.json"
"""The file that marks a folder of shards whose packing is not finished."""
CREDENTIALS = "fsspec reads credentials from FSSPEC_HTTP or from files in ~/.config/fsspec; see docs/scale.md"
HOST = re.compile(r"[^/?#@:]*(:\d*)?([/?#]|$)")
"""The part of a URL from `://` to the path, if it has only a host and a port."""

FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
IMAGENET_NAMES = ("imagenet", "imagenet-1k", "imagenet1k", "imagenet2012", "ilsvrc", "ilsvrc2012")
"""Names that users try for the ImageNet data, in lower case."""
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True, kw_only=True)
class KnownDataset:
    """A data set that is known by name: its files, and where they are published."""

    kind: Kind
    classes: tuple[str, ...]
    url: str = ""
    """URL of the folder with the archives, ending in a slash."""
    archives: Mapping[str, str] = field(default_factory=dict)
    """MD5 of each archive, by file name."""
    folder: str = ""
    """The folder that the archive unpacks to, or that other tools unpack it to; relative to the root."""
    train: tuple[str, ...] = ()
    """Files of the unpacked folder that contain the training set, in order."""
    test: tuple[str, ...] = ()
    """Files of the unpacked folder that contain the test set."""
    num_images: tuple[int, int] = (0, 0)
    """Published number of images in the training set and in the test set."""


def _idx(classes: tuple[str, ...], url: str, folder: str, *md5: str) -> KnownDataset:
    """Return a data set in the format of MNIST; `md5` has the checksum of each archive in the order of `IDX`."""
    return KnownDataset(
        kind="idx",
        classes=classes,
        url=url,
        archives={f"{name}.gz": digest for name, digest in zip(IDX, md5, strict=True)},
        folder=folder,
        train=IDX[:2],
        test=IDX[2:],
        num_images=(60_000, 10_000),
    )


# MD5 and numbers of images: the pages of Krizhevsky (CIFAR), LeCun (MNIST) and Zalando Research (Fashion-MNIST).
KNOWN_DATASETS: dict[str, KnownDataset] = {
    "digits": KnownDataset(kind="digits", classes=tuple("0123456789")),
    "cifar10": KnownDataset(
        kind="cifar",
        classes=CIFAR10,
        url="https://www.cs.toronto.edu/~kriz/",
        archives={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test=("test_batch.bin",),
        num_images=(50_000, 10_000),
    ),
    "cifar100": KnownDataset(
        kind="cifar",
        classes=CIFAR100,
        url="https://www.cs.toronto.edu/~kriz/",
        archives={"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        num_images=(50_000, 10_000),
    ),
    "mnist": _idx(
        tuple("0123456789"),
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "MNIST/raw",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    "fashion-mnist": _idx(
        FASHION,
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "FashionMNIST/raw",
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
}


def is_path(name: str) -> bool:
    """Return whether a data set's name is a path or URL; a known name without a separator never is."""
    return name not in KNOWN_DATASETS or "/" in name or os.sep in name


def is_url(name: str) -> bool:
    """Return whether a data set's name is a URL, such as `https://example.org/shards` or `s3://bucket/shards`."""
    return "://" in name


def check_no_password(url: str) -> None:
    """Raise if a URL contains a password or token, which would be written into every record of a run.

    A name before the host, such as a container or a user, is allowed, except in an HTTP URL, where it may be a token.

    Raises:
        ConfigError: If it does; the message does not repeat the URL.
    """
    for part in url.split("::"):  # fsspec's chains, such as simplecache::https://example.org/shards
        scheme, _, rest = part.partition("://")
        before, at, _ = rest.partition("@")
        if at and not HOST.match(rest) and (":" in before or scheme.lower() in ("http", "https")):
            raise ConfigError(
                "data: the URL contains a password or a user name, which would be written to every record; "
                f"give the URL without it: {CREDENTIALS}"
            )


def dataset_path(name: str) -> Path:
    """Return a path with `~` expanded."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user: a folder may have a name like ~old
        return Path(name)


def detect_kind(config: DataConfig) -> Kind:
    """Return the kind of a data set from its name and the content of its folder.

    Raises:
        ConfigError: If the name is neither known nor an existing folder, table or parquet file, if the packing of
            shards was not finished, if the name is a URL with a password, if two tables are of one split, or if options
            for splits and columns are invalid or do not fit the kind.
    """
    kind = _find_kind(config)
    parse_split_folders(config.split_folders)
    _check_fits(config, kind, "split_folders", ("folder", "parquet"))
    _check_fits(config, kind, "image_column", ("parquet",))
    _check_fits(config, kind, "label_column", ("parquet",))
    return kind


def _check_fits(config: DataConfig, kind: Kind, option: str, needed: tuple[Kind, ...]) -> None:
    """Raise if an option is given for a kind of data that has no use for it."""
    if getattr(config, option) is not None and kind not in needed:
        words = {"folder": "folders of images", "parquet": "parquet files"}
        described = " and ".join(words[name] for name in needed)
        raise ConfigError(
            f"--{option.replace('_', '-')} is for {described}, and {config.name} is {KIND_WORDS[kind]}; leave it out"
        )


def _find_kind(config: DataConfig) -> Kind:
    if not is_path(config.name):
        return KNOWN_DATASETS[config.name].kind
    path = dataset_path(config.name)
    if is_url(config.name):
        check_no_password(config.name)
        return "shards"
    try:
        if (path / INDEX_FILE).is_file() and is_shard_index(path / INDEX_FILE):
            return "shards"
        if (path / PACK_PLAN_FILE).exists():
            raise ConfigError(f"{path}: packing was not finished; run the same resnetlab data pack command again")
        if path.is_dir():
            if find_parquet_files(path):
                return "parquet"
            # Given folders say that a table beside them is not meant.
            return "table" if config.split_folders is None and find_tables(path) else "folder"
    except OSError as error:
        raise ConfigError(f"data {config.name!r} cannot be read ({error.strerror})") from error
    if path.is_file():
        if path.suffix.lower() == ".parquet":
            return "parquet"
        if is_table(path):
            return "table"
        raise ConfigError(
            f"data {config.name!r} is a file, but not a .parquet file or a .csv file of labels; give a folder, "
            f"or unpack the file{file_remedy(path)}"
        )
    if path.name.lower() in IMAGENET_NAMES:
        raise ConfigError(
            f"data {config.name!r}: ImageNet is not downloaded, since its licence needs an account; download it from "
            "image-net.org or Kaggle, and give the folder that holds train/ or ILSVRC/"
        )
    raise ConfigError(
        f"data {config.name!r} is neither a known data set ({', '.join(KNOWN_DATASETS)}) nor an existing folder, table "
        f"or parquet file{_did_you_mean(path)}"
    )


def dataset_title(config: DataConfig) -> str:
    """Return the display name of a data set: its name, or the last component of its path or URL."""
    if is_url(config.name):
        return config.name.partition("?")[0].rstrip("/").rpartition("/")[2]
    return dataset_path(config.name).resolve().name if is_path(config.name) else config.name


def is_same_data(first: DataConfig, second: DataConfig) -> bool:
    """Return whether two configurations name one data set: equal names, or paths of one folder or file."""
    if first.name == second.name:
        return True
    if any(is_url(data.name) or not is_path(data.name) for data in (first, second)):
        return False
    return dataset_path(first.name).resolve() == dataset_path(second.name).resolve()


def _did_you_mean(path: Path) -> str:
    """Return a hint with the most similar name among the known data sets and the siblings of the path."""
    try:
        siblings = {entry.name: str(path.with_name(entry.name)) for entry in path.parent.iterdir()}
    except (OSError, ValueError):  # ValueError: a path such as `..` has no name to replace
        siblings = {}
    candidates = {known: known for known in KNOWN_DATASETS} | siblings
    hint = did_you_mean(path.name, candidates)
    name = hint.removeprefix("; did you mean ").removesuffix("?")
    return f"; did you mean {candidates[name]}?" if hint else ""
