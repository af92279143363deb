"""Images into what the network sees: normalisation, and augmentation as batched tensor operations.

Every random choice is drawn beforehand (`loader.draws`) and given here, so that a sample's augmentation depends on its
position in the epoch and not on its batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.config import Preprocessing


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Turn uint8 images (batch, channels, height, width), 0 to 255, into float32 of about zero mean, unit deviation."""
    mean = torch.tensor(preprocessing.mean, device=images.device).view(-1, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(-1, 1, 1)
    return (images.float().div_(255) - mean) / std


def random_crop(images: Tensor, padding: int, draws: Tensor) -> Tensor:
    """Pad each image with zeros on every side and cut the original size out at a place of its own.

    `draws` has shape (batch, 2), uniform in [0, 1): the place down and across. Paper: section 4.2, 4 pixels.
    """
    height, width = images.shape[-2:]
    place = (draws * (2 * padding + 1)).long()
    rows = place[:, 0, None] + torch.arange(height, device=images.device)
    columns = place[:, 1, None] + torch.arange(width, device=images.device)
    padded = F.pad(images, (padding,) * 4)
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror left to right the images whose draw, uniform in [0, 1) and of shape (batch,), is below one half."""
    return torch.where((draws < 0.5)[:, None, None, None], images.flip(-1), images)
