"""Images as a training may have shown them: batch normalisation stored the statistics of augmented images.

Zero padding before a random crop changes the variance of CIFAR images by a tenth. Compared with unpadded images, a
wrong deviation then fits better than the right one (docs/log.md). So each usual augmentation is tried.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.data.rng import make_generator
from resnetlab.data.transforms import AREA, ASPECT, random_flip

ViewKind = Literal["whole", "mirrored", "black border", "mean border", "resized crops"]
SMALL_IMAGE_VIEWS: tuple[ViewKind, ...] = ("whole", "mirrored", "black border", "mean border", "resized crops")
PHOTOGRAPH_VIEWS: tuple[ViewKind, ...] = ("whole", "mirrored", "resized crops")
"""Networks for photographs are not trained on padded crops."""
BORDER = 8
"""Padding of random crops as a fraction of the image's side: 4 of 32 pixels in section 4.2 of the paper."""


class TrainingView(NamedTuple):
    """Images of one size in one augmentation, before normalisation."""

    kind: ViewKind
    pixels: Tensor
    """float32 of shape (batch, channels, height, width), values 0 to 1."""
    inside: Tensor
    """1 where the normalised value is (pixel - mean) / std, 0 where it is 0; shape (batch, 1, height, width)."""


def make_view(images: Sequence[Tensor], kind: ViewKind, size: int, crop_ratio: float) -> TrainingView:
    """Return uint8 images (channels, height, width) of any size in one augmentation; the draw is always the same."""
    generator = make_generator(0, "self-check", kind)
    if kind == "resized crops":
        pixels = torch.stack([_resized_crop(image, size, torch.rand(4, generator=generator)) for image in images])
    else:
        pixels = torch.stack([_centre_crop(image, size, crop_ratio) for image in images])
    inside = torch.ones(len(pixels), 1, size, size)
    if kind != "whole":
        pixels = random_flip(pixels, torch.rand(len(pixels), generator=generator))
    if kind in ("black border", "mean border"):
        padding = max(1, size // BORDER)
        offsets = torch.randint(0, 2 * padding + 1, (len(pixels), 2), generator=generator).tolist()
        padded = F.pad(torch.cat([pixels, inside], 1), (padding,) * 4)
        crops = [
            image[:, top : top + size, left : left + size] for image, (top, left) in zip(padded, offsets, strict=True)
        ]
        cropped = torch.stack(crops)
        pixels = cropped[:, :-1]
        inside = cropped[:, -1:] if kind == "mean border" else inside
    return TrainingView(kind, pixels, inside)


def normalise_view(view: TrainingView, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return the network's input; `mean` and `std` are for values from 0 to 1."""
    shape = (1, -1, 1, 1)
    return (view.pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape) * view.inside


def _centre_crop(image: Tensor, size: int, crop_ratio: float) -> Tensor:
    """Resize the shorter side to size / crop_ratio and crop the centre: float (channels, size, size), 0 to 1."""
    height, width = image.shape[1:]
    scale = max(size, round(size / crop_ratio)) / min(height, width)
    resized = _resize(image, max(size, round(height * scale)), max(size, round(width * scale)))
    top, left = (resized.shape[1] - size) // 2, (resized.shape[2] - size) // 2
    return resized[:, top : top + size, left : left + size]


def _resized_crop(image: Tensor, size: int, uniform: Tensor) -> Tensor:
    """Return a random box of 8 to 100 % of the area, sides 3:4 to 4:3, resized; `uniform` has 4 numbers in [0, 1)."""
    height, width = image.shape[1:]
    area, aspect, row, column = uniform.tolist()
    area = (AREA[0] + (AREA[1] - AREA[0]) * area) * height * width
    aspect = math.exp((2 * aspect - 1) * math.log(ASPECT))
    rows = min(height, max(1, round(math.sqrt(area / aspect))))
    columns = min(width, max(1, round(math.sqrt(area * aspect))))
    top, left = int(row * (height - rows + 1)), int(column * (width - columns + 1))
    return _resize(image[:, top : top + rows, left : left + columns], size, size)


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize a uint8 image to float, 0 to 1: bilinear, with antialiasing where it shrinks."""
    pixels = image.float().div_(255)
    if image.shape[1:] == (height, width):
        return pixels
    return F.interpolate(pixels[None], (height, width), mode="bilinear", antialias=True)[0]
