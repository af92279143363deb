"""Missing splits, stratified splits and subsets, from labels and a seed."""

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import ConfigError
from resnetlab.data.rng import make_generator

HELD_OUT = 0.1
"""Fraction of the images held out for each missing split: 5,000 of CIFAR-10's 50,000 (section 4.2)."""


def missing_splits(splits: Collection[str]) -> tuple[str, dict[str, float]]:
    """Return the split that missing ones are drawn from, and their fractions of it; empty if none is missing.

    Without any split (`all`) validation and test images are drawn, without validation images those. A missing test
    split is not drawn if the data have splits.
    """
    if "all" in splits:
        return "all", {"val": HELD_OUT, "test": HELD_OUT}
    return "train", {} if "val" in splits else {"val": HELD_OUT}


def draw_splits(labels: Tensor, fractions: Mapping[str, float], seed: int) -> dict[str, Tensor]:
    """Split positions as `stratified_split` does, or as `stratified_label_split` if images have several labels."""
    return (stratified_split if labels.ndim == 1 else stratified_label_split)(labels, fractions, seed)


def split_sizes(class_counts: Mapping[str, Iterable[int]]) -> dict[str, int]:
    """Return the size of each split once missing ones are drawn, from the number of images of each class by split.

    Exact for images with one class each. For several labels, and where only totals are known, a single number stands
    for all classes, and a few images more or less are drawn.
    """
    sizes = {name: sum(counts) for name, counts in class_counts.items()}
    source, fractions = missing_splits(sizes)
    if fractions:
        sizes = {"train": sizes.pop(source)} | dict.fromkeys(fractions, 0) | sizes
        for count in class_counts[source]:
            for name, drawn in _held_out_sizes(count, fractions).items():
                sizes[name] += drawn
                sizes["train"] -= drawn
    return sizes


def _held_out_sizes(num_images: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Return how many images of a class each held-out split takes, the last split named first."""
    sizes: dict[str, int] = {}
    for name, fraction in reversed(list(fractions.items())):
        sizes[name] = min(max(1, int(fraction * num_images + 0.5)), num_images - 1 - sum(sizes.values()))
    return sizes


def stratified_split(labels: Tensor, fractions: Mapping[str, float], seed: int) -> dict[str, Tensor]:
    """Split the positions 0 to len(labels) - 1 class by class into held-out splits and `train`.

    Each held-out split takes its fraction of every class, rounded to whole images and at least one. At least one image
    of a class stays in `train`: of a class of two, the last split named takes the other. The result depends on labels
    and seed alone.

    Args:
        labels: int64 of shape (num_samples,).
        fractions: Fraction of each class for every held-out split, by name.
        seed: Seed of the draw.

    Returns:
        Ascending positions, int64, for `train` and each name in `fractions`.
    """
    numbers = labels.numpy()
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("train", *fractions)}
    for label in np.unique(numbers).tolist():
        members = np.flatnonzero(numbers == label)
        members = members[torch.randperm(len(members), generator=make_generator(seed, "split", label)).numpy()]
        start = 0
        for name, count in _held_out_sizes(len(members), fractions).items():
            parts[name].append(members[start : start + count])
            start += count
        parts["train"].append(members[start:])
    return {name: torch.from_numpy(np.sort(np.concatenate(chunks))) for name, chunks in parts.items()}


def stratified_label_split(labels: Tensor, fractions: Mapping[str, float], seed: int) -> dict[str, Tensor]:
    """Split images with several labels so that each split has its fraction of every label, as nearly as possible.

    The label that fewest of the remaining images have comes first; each of its images goes to the split that still
    wants most of this label, then to the one that wants most images. The result depends on labels and seed alone.

    Args:
        labels: bool of shape (num_samples, num_classes).
        fractions: Fraction of the images for every held-out split, by name.
        seed: Seed of the draw.

    Returns:
        Ascending positions, int64, for `train` and each name in `fractions`.

    Paper: Sechidis et al., "On the Stratification of Multi-Label Data", 2011, algorithm 1.
    """
    names = ("train", *fractions)
    shares = np.array([1 - sum(fractions.values()), *fractions.values()])
    matrix = labels.numpy().astype(np.int64)
    wanted_images = shares * len(matrix)
    wanted = shares[:, None] * matrix.sum(0)  # (splits, classes): may fall below 0
    remaining = torch.randperm(len(matrix), generator=make_generator(seed, "split")).numpy()
    split_of = np.zeros(len(matrix), np.int64)
    while len(remaining):
        counts = matrix[remaining].sum(0)
        label = None if counts.max(initial=0) == 0 else int(np.where(counts > 0, counts, len(matrix) + 1).argmin())
        chosen = np.ones(len(remaining), bool) if label is None else matrix[remaining, label] == 1
        for sample in remaining[chosen]:
            most = np.lexsort((-wanted_images, np.zeros(len(names)) if label is None else -wanted[:, label]))[0]
            split_of[sample] = most
            wanted[most] -= matrix[sample]
            wanted_images[most] -= 1
        remaining = remaining[~chosen]
    return {name: torch.from_numpy(np.flatnonzero(split_of == index)) for index, name in enumerate(names)}


def classes_of(labels: Tensor) -> list[int]:
    """Return the classes that any of the samples has, ascending; labels are int64 (number,) or a bool matrix."""
    return torch.nonzero(labels.any(0)).flatten().tolist() if labels.ndim == 2 else torch.unique(labels).tolist()


def stratified_subset(labels: Tensor, count: int, seed: int) -> Tensor:
    """Select `count` of the positions 0 to len(labels) - 1, each class in its proportion.

    Every class is represented if `count` suffices. Images with several labels are drawn at random. A smaller subset is
    contained in a larger one. The result depends on labels, count and seed alone.

    Returns:
        Ascending positions, int64 of shape (count,).

    Raises:
        ConfigError: If `count` is larger than the number of labels.
    """
    if count > len(labels):
        raise ConfigError(f"train_images {count} is more than the {len(labels)} training images; use at most that many")
    if labels.ndim == 2:
        return torch.randperm(len(labels), generator=make_generator(seed, "subset"))[:count].sort().values
    ranks = torch.empty(len(labels), dtype=torch.float64)
    for label in torch.unique(labels).tolist():
        members = torch.nonzero(labels == label).flatten()
        members = members[torch.randperm(len(members), generator=make_generator(seed, "subset", label))]
        ranks[members] = torch.arange(len(members), dtype=torch.float64) / len(members)  # rank 0: the first of a class
    return torch.argsort(ranks, stable=True)[:count].sort().values
