"""Mixup and CutMix: each image of a batch is mixed with the other image of its pair, and so are their labels.

Pairs are positions 0 and 1, 2 and 3, … of an epoch, whose order is random. Which of the two is used, and how much of
each image is seen, is drawn for each batch, as a function of (seed, epoch, batch). A process whose share of a batch
starts or ends inside a pair loads the other image too, so that the result does not depend on the processes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from resnetlab.config import Recipe
from resnetlab.data.rng import make_generator

NUM_MIX_PARAMS = 4
"""Random numbers of a batch: mixup or CutMix, the share, and the vertical and horizontal centre of the box."""


@dataclass(frozen=True)
class Mix:
    """The mixture of the images of one batch."""

    kind: Literal["mixup", "cutmix"]
    share: float
    """Share of an image itself, from 0 to 1; the rest is of the other image of its pair."""
    num_classes: int
    centre: tuple[float, float] = (0.0, 0.0)
    """Centre of CutMix's box as fractions of height and width, from 0 to below 1."""


def is_mixing(recipe: Recipe) -> bool:
    """Return whether a recipe mixes images."""
    return recipe.mixup > 0 or recipe.cutmix > 0


def mix_params(seed: int, epoch: int, num_batches: int) -> Tensor:
    """Return the random numbers of each batch of an epoch: (num_batches, NUM_MIX_PARAMS), uniform in [0, 1)."""
    generator = make_generator(seed, "mix", epoch)
    return torch.rand(num_batches, NUM_MIX_PARAMS, generator=generator, dtype=torch.float64)


def draw_mix(recipe: Recipe, params: Tensor, num_classes: int | None) -> Mix:
    """Return how a batch is mixed, from its row of `mix_params`.

    With `mixup` and `cutmix`, each is used with probability one half (timm's `switch_prob`, and torchvision).

    Raises:
        ValueError: if the number of classes is not given.
    """
    if num_classes is None:
        raise ValueError("a recipe with mixup or cutmix needs num_classes")
    from scipy.special import betaincinv  # slow to import, and few recipes need it

    which, uniform, down, across = params.tolist()
    use_cutmix = recipe.cutmix > 0 and (recipe.mixup == 0 or which < 0.5)
    alpha = recipe.cutmix if use_cutmix else recipe.mixup
    share = float(betaincinv(alpha, alpha, uniform))  # the inverse of the distribution function of Beta(alpha, alpha)
    return Mix("cutmix" if use_cutmix else "mixup", share, num_classes, (down, across))


def whole_pairs(own: slice) -> slice:
    """Return the smallest range of whole pairs around a range of positions."""
    return slice(own.start - own.start % 2, own.stop + own.stop % 2)


def mix_pairs(
    images: Tensor, labels: Tensor, positions: slice | Tensor, *, own: slice, mix: Mix
) -> tuple[Tensor, Tensor]:
    """Mix the images of each pair, and return those of some positions.

    An image whose partner is missing, because it could not be decoded, stays as it is.

    Args:
        images: Normalised float images (batch, channels, height, width). They are overwritten.
        labels: The class of each image, int64 (batch,).
        positions: The positions of the images in the epoch; a rising tensor (batch,) on the CPU if some are missing.
        own: The positions to return.
        mix: How this batch is mixed.

    Returns:
        The mixed images, and the share of each class in each image, float32 (batch, num_classes).
    """
    at = torch.arange(positions.start, positions.stop) if isinstance(positions, slice) else positions
    partners = _partners(at).to(images.device)
    others, share = _select(images, partners), mix.share
    if mix.kind == "mixup":
        images.lerp_(others, 1 - share)
    else:
        top, bottom, left, right = cut_box(images.shape[2], images.shape[3], mix)
        images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
    shares = torch.zeros(len(labels), mix.num_classes, device=labels.device)
    for classes, part in ((labels, share), (labels[partners.to(labels.device)], 1 - share)):
        shares.scatter_add_(1, classes[:, None], torch.full_like(classes[:, None], part, dtype=shares.dtype))
    first, last = torch.searchsorted(at, torch.tensor([own.start, own.stop])).tolist()
    return images[first:last], shares[first:last]


def cut_box(height: int, width: int, mix: Mix) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of CutMix's box in pixels.

    Its sides are sqrt(1 - share) of the image's, and it is cut at the border, as in timm and the authors' code; the
    labels' share is then that of the pixels.
    """
    ratio = (1 - mix.share) ** 0.5
    edges = []
    for side, centre in zip((height, width), mix.centre, strict=True):
        middle, half = int(centre * side), int(side * ratio) // 2
        edges += [max(0, middle - half), min(side, middle + half)]
    return edges[0], edges[1], edges[2], edges[3]


def _partners(positions: Tensor) -> Tensor:
    """Return the index of each image's partner; its own if the partner is missing."""
    wanted = positions ^ 1
    found = torch.searchsorted(positions, wanted).clamp_max_(len(positions) - 1)
    return torch.where(positions[found] == wanted, found, torch.arange(len(positions)))


def _select(images: Tensor, indices: Tensor) -> Tensor:
    """Return images in another order, in the same memory layout."""
    if images.is_contiguous(memory_format=torch.channels_last):
        return images.permute(0, 2, 3, 1).index_select(0, indices).permute(0, 3, 1, 2)
    return images.index_select(0, indices)
