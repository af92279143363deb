"""From a name to images, labels, classes and splits. Embedded: scikit-learn's digits, 1,797 real 8x8 images."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import DataConfig, Preprocessing


@dataclass(frozen=True)
class Split:
    """Some images and their labels.

    `images` is uint8 of shape (num_samples, channels, height, width); `labels` is int64 of shape (num_samples,).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """Return the split on a device; small data sets live where the network does."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits of one data set, with what a model file must remember of it."""

    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    train: Split
    val: Split
    test: Split

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, in the order train, val, test."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def channels(self) -> int:
        """Channels of the images: 1 for grey, 3 for colour."""
        return self.train.images.shape[1]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of every split's images and labels, in order: equal data, equal fingerprint."""
        digest = hashlib.sha256()
        for split in self.splits.values():
            digest.update(repr(tuple(split.images.shape)).encode())
            digest.update(split.images.numpy().tobytes())
            digest.update(split.labels.numpy().tobytes())
        return digest.hexdigest()


def open_data(config: DataConfig) -> Dataset:
    """Open the data set that a (checked) configuration names."""
    return SOURCES[config.name](config)


def _digits(config: DataConfig) -> Dataset:
    """Open the UCI optical digits as scikit-learn ships them, split 70 / 15 / 15 %, each class alike."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    grey = np.rint(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)  # 0 … 16 in the file
    everything = np.arange(len(labels))
    train, rest = train_test_split(everything, test_size=540, stratify=labels, random_state=config.split_seed)
    val, test = train_test_split(rest, test_size=270, stratify=labels[rest], random_state=config.split_seed)

    def split(rows: Any) -> Split:
        return Split(torch.from_numpy(grey[rows]), torch.from_numpy(labels[rows].astype(np.int64)))

    return Dataset(
        name="digits",
        classes=tuple("0123456789"),
        preprocessing=per_channel(split(train)),
        train=split(train),
        val=split(val),
        test=split(test),
    )


def per_channel(train: Split) -> Preprocessing:
    """Return the preprocessing that gives each channel of the training split mean 0 and standard deviation 1."""
    scaled = train.images.double() / 255
    return Preprocessing(
        image_size=train.images.shape[-1],
        mean=tuple(scaled.mean((0, 2, 3)).tolist()),
        std=tuple(scaled.std((0, 2, 3)).tolist()),
    )


SOURCES: dict[str, Callable[[DataConfig], Dataset]] = {"digits": _digits}
