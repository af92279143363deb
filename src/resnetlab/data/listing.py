"""Listings of the images of a data set before any is decoded, and checks of their classes."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from resnetlab.config import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from resnetlab.data.images.storage import ImageStorage


@dataclass(frozen=True)
class SplitListing:
    """The images of one split before any is decoded; all columns have the same length."""

    names: Sequence[str] = ()
    """Names in error messages: `train/cat/0031.jpg`, `train-00000-of-00001.parquet row 17`."""
    storage: "Sequence[ImageStorage]" = ()
    """Location of each image: a file, its content, or a byte range of a shard."""
    labels: Sequence[int] = ()
    """Class index of each image."""
    _: KW_ONLY
    sizes: "np.ndarray | None" = None
    """Height and width in pixels, int64 (number, 2), if they are known without opening the images."""
    shards: "np.ndarray | None" = None
    """Shard of each image, int64 (number,), ascending, if shards must be read one after the other."""

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class DatasetListing:
    """A data set before any image is decoded."""

    classes: tuple[str, ...]
    splits: Mapping[str, SplitListing]
    """`train` and optionally `val` and `test`; or only `all` if the data come without splits."""
    warnings: tuple[str, ...] = ()


def check_classes(listing: DatasetListing) -> tuple[str, ...]:
    """Return a warning for each split that lacks some classes.

    Raises:
        ConfigError: If there are fewer than two classes, or a split has images of a class without training images.
    """
    if len(listing.classes) < 2:
        raise ConfigError(f"there is only one class, {', '.join(listing.classes)}; a classifier needs two or more")
    warnings = []
    counts = {name: Counter(split.labels) for name, split in listing.splits.items()}
    train = counts["train"] if "train" in counts else counts["all"]
    for split, count in counts.items():
        untrained = [listing.classes[label] for label in sorted(count.keys() - train.keys())]
        if untrained:
            raise ConfigError(
                f"{split} has images of {describe_classes(untrained)}, but train has none; "
                f"add some to train, or remove {'it' if len(untrained) == 1 else 'them'} from {split}"
            )
        missing = [name for label, name in enumerate(listing.classes) if label not in count]
        if missing:
            warnings.append(f"{split} has no image of {describe_classes(missing)}")
    return tuple(warnings)


def check_skipped(listing: DatasetListing, remaining: Mapping[str, Collection[int]]) -> None:
    """Raise if every training image of a class was left out, or every image of a split.

    `remaining` has the labels of the images that were not left out, by split.

    Raises:
        ConfigError: If that is the case.
    """
    for name, split in listing.splits.items():
        missing = sorted(set(split.labels) - set(remaining[name]))
        if missing and (name in ("train", "all") or not remaining[name]):
            classes = describe_classes([listing.classes[label] for label in missing])
            raise ConfigError(f"{name} has no image of {classes} that can be read; replace the bad images")


def describe_classes(names: Sequence[str]) -> str:
    """Return class names as text, five at most: `class cat`, `3 classes (cat, dog, owl)`."""
    listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"class {listed}" if len(names) == 1 else f"{len(names)} classes ({listed})"
