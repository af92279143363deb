"""Which samples go where: parts held out, and subsets, drawn class by class from labels and a seed alone."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import ConfigError
from resnetlab.data.rng import make_generator


def stratified_split(labels: Tensor, fractions: Mapping[str, float], seed: int) -> dict[str, Tensor]:
    """Split positions 0 to len(labels) - 1 class by class: those held out by name, the others as `train`.

    Each part takes its fraction of every class, rounded to whole images and at least one, as long as one is left for
    `train`; of two images of a class the last part named gets one. Depends on labels and seed alone.

    Returns:
        Positions, int64, rising, by part; parts that nobody asked for are missing.
    """
    numbers = labels.numpy()
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("train", *fractions)}
    for label in np.unique(numbers).tolist():
        members = np.flatnonzero(numbers == label)
        members = members[torch.randperm(len(members), generator=make_generator(seed, "split", label)).numpy()]
        start = 0
        for name, fraction in reversed(list(fractions.items())):
            count = min(max(1, int(fraction * len(members) + 0.5)), len(members) - 1 - start)
            parts[name].append(members[start : start + count])
            start += count
        parts["train"].append(members[start:])
    return {name: torch.from_numpy(np.sort(np.concatenate(some))) for name, some in parts.items()}


def stratified_subset(labels: Tensor, count: int, seed: int) -> Tensor:
    """Choose `count` of the positions 0 to len(labels) - 1, each class in its proportion and, where they suffice, each.

    The chosen few of a smaller count are among those of a larger one. Depends on labels, count and seed alone.

    Returns:
        Positions, int64, rising.

    Raises:
        ConfigError: where there are not so many.
    """
    if count > len(labels):
        raise ConfigError(f"train_images {count} is more than the {len(labels)} images there are to train on")
    ranks = torch.empty(len(labels), dtype=torch.float64)
    for label in torch.unique(labels).tolist():
        members = torch.nonzero(labels == label).flatten()
        members = members[torch.randperm(len(members), generator=make_generator(seed, "subset", label))]
        ranks[members] = torch.arange(len(members), dtype=torch.float64) / len(members)  # the first of each comes first
    return torch.argsort(ranks, stable=True)[:count].sort().values
