"""Image transforms on batches of tensors: normalisation and augmentation.

Random values are drawn beforehand (`augmentation.augmentation_params`) and passed in. The augmentation of a sample
therefore depends on its position in the epoch, not on its batch. Rounding does not depend on the batch either: no sum
crosses samples, and functions that vector units approximate are computed in double precision.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.config import Preprocessing, Recipe

AREA = (0.08, 1.0)
"""Smallest and largest fraction of the image area in a `resized` crop (Szegedy et al., 2015, and torchvision)."""
ASPECT = 4 / 3
"""The aspect ratio (width / height) of a `resized` crop lies between 1/ASPECT and ASPECT."""
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luma of a pixel (ITU-R BT.601), as in Pillow."""
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Principal components of ImageNet's colours in [0, 1]: one row a channel, one column an eigenvalue (from
fb.resnet.torch)."""


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalise images (batch, channels, height, width) to float32 of about zero mean and unit standard deviation.

    uint8 images have values 0 to 255, float images 0 to 1. A mean for each pixel is resized to the size of the images.
    The memory layout is preserved.
    """
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    height, width = images.shape[-2:] if preprocessing.pixel_mean else (1, 1)
    mean, std = _statistics(preprocessing, images.device, (height, width), images.shape[-1] if channels_last else 0)
    result = images.float().div_(255) if images.dtype == torch.uint8 else images.clone()
    # A view with whole rows as the last dimension: an inner loop over 3 channels alone is slow.
    values = result.permute(0, 2, 3, 1).flatten(2) if channels_last else result
    values.sub_(mean).div_(std)
    return result


@lru_cache(maxsize=16)
def _statistics(
    preprocessing: Preprocessing, device: torch.device, size: tuple[int, int], row_width: int
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation for broadcasting; `size` is that of the mean, (1, 1) for one per channel.

    The shape is (channels, height or 1, width or 1), or (height or 1, row_width x channels) if `row_width` is not 0.
    """
    channels = len(preprocessing.mean)
    mean = torch.tensor(preprocessing.pixel_mean or preprocessing.mean, device=device)
    mean = mean.view(channels, *(preprocessing.input_size if preprocessing.pixel_mean else (1, 1)))
    if mean.shape[1:] != size:
        mean = F.interpolate(mean[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
    std = torch.tensor(preprocessing.std, device=device).view(channels, 1, 1)
    if row_width == 0:
        return mean, std
    mean, std = (x.expand(-1, -1, row_width).permute(1, 2, 0).flatten(1).contiguous() for x in (mean, std))
    return mean, std


def random_crop(images: Tensor, padding: int, params: Tensor, *, mirrored: Tensor | None = None) -> Tensor:
    """Pad each image with zeros on every side and crop the original size at a random offset.

    Args:
        images: Shape (batch, channels, height, width).
        padding: Pixels on each side. Paper: section 4.2, 4 pixels.
        params: Vertical and horizontal offset, uniform in [0, 1), shape (batch, 2).
        mirrored: Crops to mirror left to right, bool of shape (batch,); the same gather does it at no cost.

    Returns:
        Crops of the input's shape, channels last in memory.
    """
    batch, channels, height, width = images.shape
    top, left = (params * (2 * padding + 1)).long().unbind(1)
    columns = torch.arange(width, device=images.device).expand(batch, -1)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding)).contiguous()
    first_row = torch.arange(batch, device=images.device) * padded.shape[1] + top
    rows = first_row[:, None] + torch.arange(height, device=images.device)
    strips = padded.flatten(2).flatten(0, 1).index_select(0, rows.flatten()).view(batch, height, -1)
    values = (columns + left[:, None])[:, :, None] * channels + torch.arange(channels, device=images.device)
    crops = strips.gather(2, values.view(batch, 1, -1).expand(-1, height, -1))
    return crops.view(batch, height, width, channels).permute(0, 3, 1, 2)


def random_flip(images: Tensor, params: Tensor) -> Tensor:
    """Mirror left to right each image whose parameter, uniform in [0, 1) and of shape (batch,), is below one half."""
    mirrored = params < 0.5
    if images.is_cuda:
        return torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    result = images.clone()
    for i in mirrored.nonzero().flatten().tolist():  # large images one by one: `where` takes ten times as long
        result[i] = images[i].flip(-1)
    return result


def crop_boxes(recipe: Recipe, sizes: Tensor, params: Tensor, *, image_size: int) -> Tensor:
    """Return the crop box of each image: (batch, 4), top, left, height, width as fractions of the image.

    Paper: section 3.4. Differs: `resized` shortens a box that is too long for its image instead of sampling again.

    Args:
        recipe: With `crop` of `scale` (random shorter side, then a crop of `image_size`) or `resized`.
        sizes: Height and width in pixels, shape (batch, 2).
        params: Rows of `augmentation.augmentation_params`.
        image_size: Side of the crop in pixels.
    """
    sides, params = sizes.double(), params.double()
    if recipe.crop == "scale":
        low, high = (side / 224 for side in recipe.scale_range)
        shorter = low + (high - low) * params[:, 3]  # in units of the crop
        box = (sides.amin(1) / shorter)[:, None].expand(-1, 2)
    else:
        area = (AREA[0] + (AREA[1] - AREA[0]) * params[:, 3]) * sides.prod(1)
        aspect = torch.exp((2 * params[:, 4] - 1) * math.log(ASPECT))
        box = torch.stack(((area / aspect).sqrt(), (area * aspect).sqrt()), 1).minimum(sides)
    fractions = box / sides
    return torch.cat((params[:, :2] * (1 - fractions), fractions), 1).float()


def resize_boxes(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop a box out of each image and resize it to float (batch, channels, size, size); uint8 is scaled to [0, 1].

    `boxes` is a result of `crop_boxes`. Interpolation is bilinear without antialiasing, so boxes should be no larger
    than about `size` pixels.
    """
    images = images.float().div_(255) if images.dtype == torch.uint8 else images
    centres = (torch.arange(size, device=images.device) + 0.5) / size
    points = boxes[:, :2, None] + boxes[:, 2:, None] * centres  # (batch, vertical and horizontal, size), in [0, 1]
    vertical, horizontal = (2 * points - 1).unbind(1)
    grid = torch.stack(
        (horizontal[:, None, :].expand(-1, size, -1), vertical[:, :, None].expand(-1, -1, size)),
        -1,
    )
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def resize(images: Tensor, size: int) -> Tensor:
    """Resize float images to (batch, channels, size, size): bilinear, with antialiasing where they shrink."""
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)


def colour_jitter(images: Tensor, strength: float, params: Tensor) -> Tensor:
    """Vary brightness, contrast and saturation, in this order, each by a factor within 1 ± strength.

    Images are float in [0, 1] before and after. `params` has shape (batch, 3), uniform in [0, 1). Images that do not
    have three channels have no saturation to vary.
    """
    brightness, contrast, saturation = ((1 + strength * (2 * params - 1))[:, :, None, None, None]).unbind(1)
    images = (images * brightness).clamp_(0, 1)
    level = grey(images).flatten(1).mean(1)[:, None, None, None]
    images = (images * contrast + level * (1 - contrast)).clamp_(0, 1)
    if images.shape[1] != 3:
        return images
    return (images * saturation + grey(images) * (1 - saturation)).clamp_(0, 1)


def pca_lighting(images: Tensor, std: float, params: Tensor) -> Tensor:
    """Shift the colour of each image along the principal components of ImageNet's colours (Krizhevsky et al., 2012).

    Images are float in [0, 1]; the result may leave that range. `params` has shape (batch, 3), uniform in [0, 1). It is
    mapped to normal values with standard deviation `std`, which weight the components. Images that do not have three
    channels are returned unchanged.
    """
    if images.shape[1] != 3:
        return images
    uniform = params.double().clamp(1e-7, 1 - 1e-7)  # ndtri(0) is minus infinity
    weights = torch.special.ndtri(uniform) * std
    shift = sum(
        weights[:, i, None] * value * torch.tensor([row[i] for row in EIGENVECTORS], device=images.device)
        for i, value in enumerate(EIGENVALUES)
    )
    return images + torch.as_tensor(shift, dtype=images.dtype)[:, :, None, None]


def grey(images: Tensor) -> Tensor:
    """Return the luma of each pixel: (batch, 1, height, width)."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = (images[:, i : i + 1] * weight for i, weight in enumerate(GREY))
    return (red + green).add_(blue)
