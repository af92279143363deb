"""Random erasing: a random box of an image loses its content."""

import math

import torch
from torch import Tensor

NUM_ERASING_PARAMS = 5
"""Random numbers of an image: whether it is erased, area, aspect ratio, and vertical and horizontal offset."""
AREA = (0.02, 0.33)
ASPECT = (0.3, 3.3)
"""Area of the box as a share of the image, and its height over its width (torchvision, `RandomErasing`)."""


def random_erasing(images: Tensor, probability: float, params: Tensor) -> Tensor:
    """Replace a box of some images by 0, the mean colour of normalised images (Zhong et al., 2020).

    Differs: a box that is longer than its image is shortened; torchvision tries another one, up to ten times.

    Args:
        images: Normalised float images (batch, channels, height, width).
        probability: Share of the images that lose a box.
        params: Random numbers of each image, shape (batch, NUM_ERASING_PARAMS), uniform in [0, 1).
    """
    top, left, bottom, right = erased_boxes(images.shape[2:], params).unbind(1)
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    in_rows = (rows >= top[:, None]) & (rows < bottom[:, None]) & (params[:, :1] < probability)
    in_columns = (columns >= left[:, None]) & (columns < right[:, None])
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


def erased_boxes(size: tuple[int, int] | torch.Size, params: Tensor) -> Tensor:
    """Return the box of each image in pixels: top, left, bottom and right, int64 of shape (batch, 4)."""
    height, width = size
    uniform = params.double()
    area = (AREA[0] + (AREA[1] - AREA[0]) * uniform[:, 1]) * height * width
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspect = torch.exp(low + (high - low) * uniform[:, 2])
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top = (uniform[:, 3] * (height - tall + 1)).floor()
    left = (uniform[:, 4] * (width - wide + 1)).floor()
    return torch.stack((top, left, top + tall, left + wide), 1).long()
