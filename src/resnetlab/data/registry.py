"""What can be opened: data sets that have a name, and what is known of any other before an image is decoded.

No torch, no numpy: commands ask `detect_kind` before anything heavy loads.
"""

import difflib
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resnetlab.config import ConfigError, DataConfig

if TYPE_CHECKING:
    import numpy as np

    from resnetlab.data.images.storage import ImageStorage

Kind = Literal["digits", "cifar", "idx", "folder", "parquet", "shards"]
LISTED = ("folder", "parquet", "shards")
"""Kinds of people's own images, which are listed before any is opened."""
INDEX = "index.json"
"""What a folder of shards is known by."""
PLAN = ".packing.json"
"""What a folder of shards that is not yet whole is known by."""
CREDENTIALS = "fsspec finds credentials itself, such as in FSSPEC_HTTP or a file in ~/.config/fsspec: docs/scaling.md"
HOST = re.compile(r"[^/?#@:]*(:\d*)?([/?#]|$)")
"""What stands behind `://`, up to the path, where it is no more than a host and a port."""

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = tuple(CIFAR100_NAMES.split())
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
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class KnownDataset:
    """A data set that has a name: which files it needs, and where they are published."""

    kind: Kind
    classes: tuple[str, ...]
    address: str = ""
    """Where the archives lie, without their names, ending in a slash."""
    archives: Mapping[str, str] = field(default_factory=dict)
    """The name of each archive, and its MD5."""
    folder: str = ""
    """What the archive unpacks to, or where others unpack it; relative to the root."""
    train: tuple[str, ...] = ()
    """Files of the unpacked folder that make the training set, in their order."""
    test: tuple[str, ...] = ()
    """Files of the unpacked folder that make the test set."""
    published: tuple[int, int] = (0, 0)
    """Images in the training and in the test set, as published."""


def _idx(classes: tuple[str, ...], address: str, folder: str, *md5: str) -> KnownDataset:
    archives = {f"{name}.gz": digest for name, digest in zip(IDX, md5, strict=True)}
    return KnownDataset("idx", classes, address, archives, folder, IDX[:2], IDX[2:], (60_000, 10_000))


# MD5 and sizes: the pages of Krizhevsky (CIFAR), LeCun (MNIST) and Zalando Research (Fashion-MNIST).
KNOWN: dict[str, KnownDataset] = {
    "digits": KnownDataset("digits", tuple("0123456789")),
    "cifar10": KnownDataset(
        "cifar",
        CIFAR10,
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        "cifar-10-batches-bin",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        ("test_batch.bin",),
        (50_000, 10_000),
    ),
    "cifar100": KnownDataset(
        "cifar",
        CIFAR100,
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
        "cifar-100-binary",
        ("train.bin",),
        ("test.bin",),
        (50_000, 10_000),
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


@dataclass(frozen=True)
class SplitListing:
    """Images of one split that nobody has decoded yet; columns of one length."""

    names: Sequence[str] = ()
    """What an error calls them: `train/cat/0031.jpg`, `train-00000-of-00001.parquet row 17`."""
    places: "Sequence[ImageStorage]" = ()
    """A file each, its content, or a piece of a shard."""
    labels: Sequence[int] = ()
    """Each an index of the classes."""
    sizes: "np.ndarray | None" = None
    """int64 (number, 2): height and width in pixels, where they are known before any image is opened."""
    shards: "np.ndarray | None" = None
    """int64 (number,): the shard each lies in, where shards have to be read one after the other; it never falls."""

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class DatasetListing:
    """A data set before any image is decoded."""

    classes: tuple[str, ...]
    splits: Mapping[str, SplitListing]
    """`train` and maybe `val` and `test`; or `all`, where it is for us to split."""
    warnings: tuple[str, ...] = ()


def is_path(name: str) -> bool:
    """Say whether a data set is named by its place; a known name without a separator never is."""
    return name not in KNOWN or "/" in name or os.sep in name


def is_address(name: str) -> bool:
    """Say whether a data set lies behind an address, such as `https://example.org/shards` or `s3://bucket/shards`."""
    return "://" in name


def refuse_password(address: str) -> None:
    """Refuse an address that a password or a token stands in: it would be written into every record of a run.

    The name of a container or of a user before the host is none, but for HTTP, where it is as good as a password.

    Raises:
        ConfigError: without repeating the address.
    """
    for part in address.split("::"):  # fsspec's chains, such as simplecache::https://example.org/shards
        scheme, _, rest = part.partition("://")
        before, at, _ = rest.partition("@")
        if at and not HOST.match(rest) and (":" in before or scheme.lower() in ("http", "https")):
            raise ConfigError(
                "data: there is a password, or a user's name, in this address, and records would keep it; give the "
                f"address without it: {CREDENTIALS}"
            )


def dataset_path(name: str) -> Path:
    """Return the folder or file that a path names."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # the home of nobody: a folder may be called so
        return Path(name)


def detect_kind(config: DataConfig) -> Kind:
    """Say what must be opened, from the name and a glance at the folder.

    Raises:
        ConfigError: where the name is neither known nor a folder or parquet file that exists, its packing was not
            finished, or it is an address with a password.
    """
    if not is_path(config.name):
        return KNOWN[config.name].kind
    path = dataset_path(config.name)
    if is_address(config.name):
        refuse_password(config.name)
        return "shards"
    try:
        if (path / INDEX).is_file() and _holds_shards(path / INDEX):
            return "shards"
        if (path / PLAN).exists():
            raise ConfigError(f"{path}: its packing was not finished; give the same resnetlab data pack again")
        if path.is_dir():
            return "parquet" if any(path.glob("*.parquet")) else "folder"
    except OSError as error:
        raise ConfigError(f"data {config.name!r} cannot be read ({error.strerror})") from error
    if path.is_file():
        if path.suffix.lower() == ".parquet":
            return "parquet"
        raise ConfigError(f"data {config.name!r} is a file, but not a .parquet one; give a folder, or unpack it")
    raise ConfigError(
        f"data {config.name!r} is neither a known data set ({', '.join(KNOWN)}) nor a folder or parquet file here"
        f"{_did_you_mean(config.name, path)}"
    )


def dataset_title(config: DataConfig) -> str:
    """Return what people call the data set: its name, or the last component of its path."""
    if is_address(config.name):
        return config.name.partition("?")[0].rstrip("/").rpartition("/")[2]
    return dataset_path(config.name).resolve().name if is_path(config.name) else config.name


def check_classes(contents: DatasetListing) -> tuple[str, ...]:
    """Return a warning for each split that lacks some classes.

    Raises:
        ConfigError: for fewer than two classes, or images of a class of which there are none to train on.
    """
    if len(contents.classes) < 2:
        raise ConfigError(f"there is only one class, {', '.join(contents.classes)}; a classifier needs two or more")
    warnings = []
    counts = {split: Counter(listing.labels) for split, listing in contents.splits.items()}
    seen = counts["train"] if "train" in counts else counts["all"]
    for split, count in counts.items():
        unseen = [contents.classes[label] for label in sorted(count.keys() - seen.keys())]
        if unseen:
            raise ConfigError(
                f"{split} has images of {describe_classes(unseen)}, but train has none; "
                f"add some to train, or take {'it' if len(unseen) == 1 else 'them'} out of {split}"
            )
        missing = [name for label, name in enumerate(contents.classes) if label not in count]
        if missing:
            warnings.append(f"{split} has no image of {describe_classes(missing)}")
    return tuple(warnings)


def check_skipped(contents: DatasetListing, left: Mapping[str, Collection[int]]) -> None:
    """Refuse a class of which every training image was left out, and a split of which every image was.

    `left` has the labels of the images that stayed, split by split.

    Raises:
        ConfigError: where that is so.
    """
    for split, listing in contents.splits.items():
        gone = sorted(set(listing.labels) - set(left[split]))
        if gone and (split in ("train", "all") or not left[split]):
            names = describe_classes([contents.classes[label] for label in gone])
            raise ConfigError(f"{split} has no image of {names} left that can be read; replace the bad ones")


def describe_classes(names: Sequence[str]) -> str:
    """Return a few class names as words: `class cat`, `3 classes (cat, dog, owl)`."""
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"class {shown}" if len(names) == 1 else f"{len(names)} classes ({shown})"


def _holds_shards(path: Path) -> bool:
    """Say whether an `index.json` is ours: somebody's folder of classes may hold another. Ours may have been cut."""
    with path.open("rb") as file:
        head = file.read(256)
    return b"resnetlab shards" in head or (not head and any(path.parent.glob("*.tar")))


def _did_you_mean(name: str, path: Path) -> str:
    """Name what is spelt alike: a known data set, or a neighbour of the path."""
    try:
        neighbours = {entry.name: str(path.with_name(entry.name)) for entry in path.parent.iterdir()}
    except (OSError, ValueError):  # ValueError: a path such as `..` has no name to change
        neighbours = {}
    known = {word: word for word in KNOWN} | neighbours
    close = difflib.get_close_matches(path.name, list(known), n=1)
    return f"; did you mean {known[close[0]]}?" if close else ""
