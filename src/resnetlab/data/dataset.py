"""An open data set: images, labels and classes in three disjoint splits."""

import hashlib
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from resnetlab.config import Preprocessing
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.luma import luma

GREY_BATCH = 1024
"""Images that become grey at a time, which needs 16 bytes for each of their pixels."""


@dataclass(frozen=True)
class Split:
    """Images with their labels, of one split of a data set."""

    images: Tensor | EncodedImages
    """Resident images, uint8 of shape (num_samples, channels, height, width), or images that are decoded for each
    batch."""
    labels: Tensor
    """int64 of shape (num_samples,); with several labels an image, bool of shape (num_samples, num_classes)."""
    names: Sequence[str] = ()
    """The origin of each image (a file or a row); empty where an image has no such name."""
    _: KW_ONLY
    shards: Tensor | None = None
    """The shard of each sample, int64 of shape (num_samples,), where shards are read one after the other. Samples are
    then in storage order."""
    canonical_order: Tensor | None = None
    """The sample at each position of the canonical order, int64 of shape (num_samples,); set together with `shards`."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """Number of image channels: 1 for grey, 3 for colour."""
        return self.images.shape[1] if isinstance(self.images, Tensor) else self.images.channels

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.labels.ndim == 2

    def class_counts(self, num_classes: int) -> list[int]:
        """Return the number of images of each class, by label."""
        if self.is_multi_label:
            return self.labels.sum(0).tolist()
        return torch.bincount(self.labels, minlength=num_classes).tolist()

    def with_channels(self, channels: int) -> "Split":
        """Return the split with grey images repeated for 3 channels, and with the luma of colour images for 1 channel.

        These are the pixels that a prediction reads. For other numbers of channels the split is unchanged, so the
        caller must check that the result has the channels that the network reads.
        """
        if (self.channels, channels) == (1, 3) and isinstance(self.images, Tensor):
            return replace(self, images=self.images.expand(-1, 3, -1, -1))
        if (self.channels, channels) == (3, 1):
            grey = _grey(self.images) if isinstance(self.images, Tensor) else replace(self.images, channels=1)
            return replace(self, images=grey)
        return self

    def subset(self, samples: Tensor) -> "Split":
        """Return the given samples, int64 of shape (number,), in that order and without names."""
        images = self.images[samples] if isinstance(self.images, Tensor) else self.images.subset(samples)
        return Split(images, self.labels[samples])

    def to(self, device: torch.device) -> "Split":
        """Return the split with labels and resident images on a device; encoded images stay in host memory."""
        images = self.images.to(device) if isinstance(self.images, Tensor) else self.images
        return replace(self, images=images, labels=self.labels.to(device))


def _grey(images: Tensor) -> Tensor:
    """Return the luma of resident images, uint8 (num_samples, 3, height, width), on the CPU."""
    pixels = images.permute(0, 2, 3, 1)
    return torch.cat([torch.from_numpy(luma(part.numpy())) for part in pixels.split(GREY_BATCH)]).permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The three disjoint splits of a data set, its classes and its preprocessing."""

    name: str
    """The name or path that was opened."""
    classes: tuple[str, ...]
    """Class names; a label is a position in them."""
    preprocessing: Preprocessing
    """Normalises each channel of the training split."""
    train: Split
    """The images to train on."""
    val: Split
    """The images that select the weights; disjoint from `train`."""
    test: Split
    """Empty if the data have no test split and were not split here."""
    skipped: tuple[str, ...] = ()
    """Images that were left out because they cannot be read, each as `NAME: REASON`."""
    warnings: tuple[str, ...] = ()
    """Warnings for the user: classes that a split lacks, files that were ignored."""
    reading: tuple[str, ...] = ()
    """Lines on how your own data were read: kind, splits, classes, columns, what was left out without a warning.
    Empty for known data sets."""

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, in the order train, val, test."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def channels(self) -> int:
        """Number of image channels: 1 for grey, 3 for colour."""
        return len(self.preprocessing.mean)

    @property
    def training_warnings(self) -> tuple[str, ...]:
        """The warnings, and one on a missing test split, which matters to training only."""
        missing = () if len(self.test) else ("there is no test split: the test error will be missing",)
        return (*self.warnings, *missing)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the images and labels of every split in canonical order; equal data have equal fingerprints.

        For encoded images, names and lengths in bytes are hashed instead of contents: reading all files may take hours.
        """
        digest = hashlib.sha256()
        for split in self.splits.values():
            split = split if split.canonical_order is None else split.subset(split.canonical_order)
            if isinstance(split.images, Tensor):
                digest.update(repr(tuple(split.images.shape)).encode())
                digest.update(split.images.numpy().tobytes())
            else:
                digest.update(split.images.signature())
            digest.update(split.labels.numpy().tobytes())
        return digest.hexdigest()
