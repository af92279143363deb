"""TrivialAugment and RandAugment: the operations, and the strength of each as a function of random numbers."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from resnetlab.config import Recipe
from resnetlab.data import image_operations as ops
from resnetlab.data.image_operations import Operation, apply_operations

NUM_AUTO_PARAMS = 8
"""Random numbers of an image: for each of two layers, operation, strength, sign, and whether it is applied."""
NUM_BINS = 31
"""Strengths of TrivialAugment (Müller and Hutter, 2021, section 3)."""
RAND_LAYERS, RAND_PROBABILITY, RAND_STD = 2, 0.5, 0.5
"""Operations of RandAugment, the probability of each, and the deviation of its strength (timm's `rand-…-mstd0.5`)."""


class Choice(NamedTuple):
    """An operation, and its amount for a strength from 0 to 1 and a sign of -1 or 1."""

    operation: Operation
    amount: Callable[[Tensor, Tensor], Tensor]


def _signed(largest: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda strength, sign: largest * strength * sign


def _enhance(largest: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda strength, sign: 1 + largest * strength * sign


def _unused(strength: Tensor, sign: Tensor) -> Tensor:
    return torch.zeros_like(strength)


TRIVIAL = (
    Choice(ops.identity, _unused),
    Choice(ops.shear_x, _signed(0.99)),
    Choice(ops.shear_y, _signed(0.99)),
    Choice(ops.translate_x, lambda strength, sign: (32 * strength * sign).trunc()),
    Choice(ops.translate_y, lambda strength, sign: (32 * strength * sign).trunc()),
    Choice(ops.rotate, _signed(135)),
    Choice(ops.brightness, _enhance(0.99)),
    Choice(ops.color, _enhance(0.99)),
    Choice(ops.contrast, _enhance(0.99)),
    Choice(ops.sharpness, _enhance(0.99)),
    Choice(ops.posterize, lambda strength, sign: 8 - (6 * strength).round()),
    Choice(ops.solarize, lambda strength, sign: 255 * (1 - strength)),
    Choice(ops.autocontrast, _unused),
    Choice(ops.equalize, _unused),
)
"""The wide space of TrivialAugment (torchvision, `TrivialAugmentWide._AUGMENTATION_SPACE`)."""

RAND = (
    Choice(ops.autocontrast, _unused),
    Choice(ops.equalize, _unused),
    Choice(ops.invert, _unused),
    Choice(ops.rotate, _signed(30)),
    Choice(ops.posterize, lambda strength, sign: 4 - (4 * strength).trunc()),
    Choice(ops.solarize, lambda strength, sign: 256 - (256 * strength).trunc()),
    Choice(ops.solarize_add, lambda strength, sign: (110 * strength).trunc()),
    Choice(ops.color, _enhance(0.9)),
    Choice(ops.contrast, _enhance(0.9)),
    Choice(ops.brightness, _enhance(0.9)),
    Choice(ops.sharpness, _enhance(0.9)),
    Choice(ops.shear_x, _signed(0.3)),
    Choice(ops.shear_y, _signed(0.3)),
    Choice(ops.translate_x_share, _signed(0.45)),
    Choice(ops.translate_y_share, _signed(0.45)),
)
"""The operations of RandAugment that grow with the strength (timm, `_RAND_INCREASING_TRANSFORMS`)."""


def auto_augment(images: Tensor, recipe: Recipe, params: Tensor, *, mean: tuple[float, ...]) -> Tensor:
    """Apply the recipe's `trivial_augment` or `rand_augment`.

    Differs: timm resamples half of the images bicubically; here all are bilinear.

    Args:
        images: uint8, or float in [0, 1], of shape (batch, channels, height, width).
        recipe: Names the policy.
        params: Random numbers of each image, shape (batch, NUM_AUTO_PARAMS), uniform in [0, 1).
        mean: Mean of each channel in [0, 1]: the colour outside of an image for RandAugment, black for TrivialAugment.

    Returns:
        Float images in [0, 1] with values of whole 255ths.
    """
    values = images.float() if images.dtype == torch.uint8 else (images * 255).round_()
    values = values.contiguous()  # planar: every operation works on whole channels
    if recipe.trivial_augment:
        strength = (params[:, 1].double() * NUM_BINS).floor_() / (NUM_BINS - 1)
        black = torch.zeros(images.shape[1], device=images.device)
        return _apply(values, TRIVIAL, params, strength=strength, fill=black).div_(255)
    assert recipe.rand_augment is not None
    fill = (torch.tensor(mean, device=images.device) * 255).round_()
    for layer in params.split(NUM_AUTO_PARAMS // RAND_LAYERS, dim=1):
        uniform = layer[:, 1].double().clamp(1e-7, 1 - 1e-7)  # ndtri(0) is minus infinity
        level = recipe.rand_augment + RAND_STD * torch.special.ndtri(uniform)
        changed = _apply(values, RAND, layer, strength=level.clamp_(0, 10) / 10, fill=fill)
        values = torch.where((layer[:, 3] < RAND_PROBABILITY)[:, None, None, None], changed, values)
    return values.div_(255)


def _apply(values: Tensor, choices: tuple[Choice, ...], params: Tensor, *, strength: Tensor, fill: Tensor) -> Tensor:
    """Apply to each image the operation that its first random number selects, with the sign of its third."""
    chosen = (params[:, 0].double() * len(choices)).long()
    sign = torch.where(params[:, 2] < 0.5, -1.0, 1.0).double()
    table = torch.stack([choice.amount(strength, sign) for choice in choices], 1)
    amounts = table.gather(1, chosen[:, None]).squeeze(1)
    return apply_operations(
        values, chosen, amounts, operations=tuple(choice.operation for choice in choices), fill=fill
    )
