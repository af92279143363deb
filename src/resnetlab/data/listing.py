"""Listings of the images of a data set before any is decoded, and checks of their classes."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from resnetlab.config import ConfigError
from resnetlab.data.left_out import MAX_LINE, LeftOutGroup, join_names, shorten

if TYPE_CHECKING:
    import numpy as np

    from resnetlab.data.images.storage import ImageStorage

CLASSES_WIDTH = 70
"""Characters of the line that lists classes, before its bracket: `train` indents it by 9 of 80 columns."""
NAMES_WIDTH = 90
"""Characters of the class names in an error or warning."""


@dataclass(frozen=True)
class SplitListing:
    """The images of one split before any is decoded; all columns have the same length."""

    names: Sequence[str] = ()
    """Names in error messages: `train/cat/0031.jpg`, `train-00000-of-00001.parquet row 17`."""
    storage: "Sequence[ImageStorage]" = ()
    """Location of each image: a file, its content, or a byte range of a shard."""
    labels: Sequence[int] = ()
    """Class index of each image; empty if an image may have several labels."""
    _: KW_ONLY
    label_matrix: "np.ndarray | None" = None
    """Whether each image has each label, bool (number, num_classes); `None` if each image has one class."""
    sizes: "np.ndarray | None" = None
    """Height and width in pixels, int64 (number, 2), if they are known without opening the images."""
    shards: "np.ndarray | None" = None
    """Shard of each image, int64 (number,), ascending, if shards must be read one after the other."""

    def __len__(self) -> int:
        return len(self.names)

    def class_counts(self) -> Counter[int]:
        """Return the number of images of each class that has any."""
        if self.label_matrix is None:
            return Counter(self.labels)
        return +Counter(dict(enumerate(self.label_matrix.sum(0).tolist())))

    def image_counts(self) -> list[int]:
        """Return the number of images of each class that has any; one total if an image may have several labels."""
        return list(Counter(self.labels).values()) if self.label_matrix is None else [len(self)]

    def labels_by_image(self) -> Iterator[tuple[int, ...]]:
        """Yield the labels of each image: its class, or any number of labels."""
        if self.label_matrix is None:
            return ((int(label),) for label in self.labels)
        return (tuple(row.nonzero()[0].tolist()) for row in self.label_matrix)


@dataclass(frozen=True)
class DatasetListing:
    """A data set before any image is decoded."""

    classes: tuple[str, ...]
    splits: Mapping[str, SplitListing]
    """`train` and optionally `val` and `test`; or only `all` if the data come without splits."""
    warnings: tuple[str, ...] = ()
    """Notes for the user, one line each; the lines of `left_out` that are warnings among them."""
    _: KW_ONLY
    kind: str = ""
    """The kind of data in words, such as `a folder of images`."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Folder or files that each split was read from, such as `Training/`."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of parquet files that were read: `image` and `label`."""
    left_out: tuple[LeftOutGroup, ...] = ()
    """Files and folders that were left out, by reason."""

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels, or none."""
        return any(split.label_matrix is not None for split in self.splits.values())


def describe_listing(listing: DatasetListing) -> tuple[str, ...]:
    """Return how a data set was read, one line each: kind, splits and their sources, classes, columns."""
    total = len(listing.splits)
    splits = [
        f"{name}{_source(listing, name, MAX_LINE // max(1, total))} {len(split):,}"
        for name, split in listing.splits.items()
    ]
    start = f"classes: {len(listing.classes):,} ("
    lines = [f"splits: {', '.join(splits)}", f"{start}{join_names(listing.classes, CLASSES_WIDTH - len(start))})"]
    if listing.columns:
        lines.append("columns: " + ", ".join(f"{role} from {shorten(name)}" for role, name in listing.columns.items()))
    return (f"read as: {listing.kind}", *lines) if listing.kind else tuple(lines)


def _source(listing: DatasetListing, split: str, width: int) -> str:
    source = listing.sources.get(split, "")
    return f" from {shorten(source, max(20, width - 24))}" if source else ""


def check_num_classes(listing: DatasetListing) -> None:
    """Raise unless a classifier can be trained, which needs two classes, or one label if images may have several.

    Raises:
        ConfigError: If there is only one class.
    """
    if len(listing.classes) < 2 - listing.is_multi_label:
        only = ", ".join(map(shorten, listing.classes))
        raise ConfigError(f"there is only one class, {only}; a classifier needs two or more")


def check_classes(listing: DatasetListing) -> tuple[str, ...]:
    """Return a warning for each split that lacks some classes, and for classes that differ in case alone.

    Raises:
        ConfigError: If there is no class, or a split has images of a class without training images.
    """
    if not listing.classes:
        raise ConfigError("there is no label; a classifier needs two or more")
    warnings = []
    counts = {name: split.class_counts() for name, split in listing.splits.items()}
    train = counts["train"] if "train" in counts else counts["all"]
    for split, count in counts.items():
        untrained = [listing.classes[label] for label in sorted(count.keys() - train.keys())]
        if untrained:
            raise ConfigError(
                f"{_place(listing, split)} has images of {describe_classes(untrained)}, but {_place(listing, 'train')} "
                f"has none{_similar_class(untrained, [listing.classes[label] for label in train])}; "
                f"add some to train, or remove {'it' if len(untrained) == 1 else 'them'} from {split}"
            )
        missing = [name for label, name in enumerate(listing.classes) if label not in count]
        if missing:
            warnings.append(f"{split} has no image of {describe_classes(missing)}")
    by_key: dict[str, str] = {}
    for name in listing.classes:
        first = by_key.setdefault(_class_key(name), name)
        if first != name:
            warnings.append(f"classes {shorten(first)} and {shorten(name)} differ only in case or separators")
    return tuple(warnings)


def _place(listing: DatasetListing, split: str) -> str:
    """Return a split's name, and its source if that starts with another name: `test (Testing/)`."""
    source = listing.sources.get(split, "")
    return split if not source or source.startswith(split) else f"{split} ({shorten(source, 40)})"


def _similar_class(untrained: Sequence[str], trained: Sequence[str]) -> str:
    """Return a hint for the first class that the training images call by a similar name."""
    by_key = {_class_key(name): name for name in trained}
    for name in untrained:
        if other := by_key.get(_class_key(name)):
            return f" (train calls it {shorten(other)}: give {shorten(name)} that name)"
    return ""


def _class_key(name: str) -> str:
    """Return a class name without case, separators and Unicode form, for comparisons; -1 is not 1."""
    return re.sub(r"(?!^-\d)[-_\s]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()


def check_skipped(listing: DatasetListing, remaining: Mapping[str, Collection[int]]) -> None:
    """Raise if every training image of a class was left out, or every image of a split.

    `remaining` has the classes of the images that were not left out, by split.

    Raises:
        ConfigError: If that is the case.
    """
    for name, split in listing.splits.items():
        missing = sorted(split.class_counts().keys() - set(remaining[name]))
        if missing and (name in ("train", "all") or not remaining[name]):
            classes = describe_classes([listing.classes[label] for label in missing])
            raise ConfigError(f"{name} has no image of {classes} that can be read; replace the bad images")


def describe_classes(names: Sequence[str]) -> str:
    """Return class names as text, five at most: `class cat`, `3 classes (cat, dog, owl)`."""
    listed = join_names(names[:5], NAMES_WIDTH, len(names))
    return f"class {listed}" if len(names) == 1 else f"{len(names)} classes ({listed})"
