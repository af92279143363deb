"""What a data set is once it is open: images, labels and classes in three disjoint splits."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from resnetlab.config import Preprocessing
from resnetlab.data.images.encoded import EncodedImages


@dataclass(frozen=True)
class Split:
    """Some images and their labels.

    `images` is either resident, uint8 of shape (num_samples, channels, height, width), or stays encoded and is decoded
    batch by batch. `labels` is int64 of shape (num_samples,). `names` says where each image came from (a file, a row);
    it is empty where that says nothing.

    Where shards have to be read one after the other, samples stand in the order in which they lie there. `shards`,
    int64 of shape (num_samples,), is then the shard that each lies in, and `canonical`, likewise, which sample stands
    at each position of the canonical order.
    """

    images: Tensor | EncodedImages
    labels: Tensor
    names: Sequence[str] = ()
    shards: Tensor | None = None
    canonical: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """Channels of the images: 1 for grey, 3 for colour; encoded ones are decoded to colour."""
        return self.images.shape[1] if isinstance(self.images, Tensor) else 3

    def shown_in(self, channels: int) -> "Split":
        """Return the split as a network of so many channels is shown it: grey as three equal channels, else as it is.

        Whether the channels are then those that the network reads, is for the caller to ask.
        """
        if not isinstance(self.images, Tensor) or (self.channels, channels) != (1, 3):
            return self
        return replace(self, images=self.images.expand(-1, 3, -1, -1))

    def some(self, samples: Tensor) -> "Split":
        """Return some of the samples, int64 of shape (number,), in that order, without names."""
        images = self.images[samples] if isinstance(self.images, Tensor) else self.images.subset(samples)
        return Split(images, self.labels[samples])

    def to(self, device: torch.device) -> "Split":
        """Return the split on a device; resident images live where the network does, encoded ones stay."""
        images = self.images.to(device) if isinstance(self.images, Tensor) else self.images
        return replace(self, images=images, labels=self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits of one data set, with what a model file and a record must remember of it."""

    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    """Normalises each channel of the training split."""
    train: Split
    val: Split
    test: Split
    """Empty where the data came without a test split and was not split by us."""
    skipped: tuple[str, ...] = ()
    """Images left out because they cannot be read, each as `NAME: REASON`."""
    warnings: tuple[str, ...] = ()
    """What a user should know: classes missing in a split, files that were ignored, no test split."""

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, in the order train, val, test."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def channels(self) -> int:
        """Channels of the images: 1 for grey, 3 for colour."""
        return len(self.preprocessing.mean)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every split's images and labels, in canonical order: equal data, equal fingerprint.

        Of encoded images it is names and lengths in bytes that count: reading them all may take hours.
        """
        digest = hashlib.sha256()
        for split in self.splits.values():
            split = split if split.canonical is None else split.some(split.canonical)
            if isinstance(split.images, Tensor):
                digest.update(repr(tuple(split.images.shape)).encode())
                digest.update(split.images.numpy().tobytes())
            else:
                digest.update(split.images.signature())
            digest.update(split.labels.numpy().tobytes())
        return digest.hexdigest()
