"""The operations of TrivialAugment and RandAugment on batches, as Pillow defines them.

Images are float (batch, channels, height, width) with whole values from 0 to 255, before and after. Each image has its
own amount. As in `transforms.py`, the result for an image does not depend on its batch: sums of whole numbers are
exact, and sines are computed in double precision.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.data.transforms import grey

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Images, amounts (batch,) and the colour outside of an image (channels,) to images."""


def identity(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Return the images unchanged."""
    return images


def shear_x(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Move each row to the left by `amounts` times its distance from the top."""
    return _affine(images, {"b": amounts}, fill)


def shear_y(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Move each column up by `amounts` times its distance from the left."""
    return _affine(images, {"d": amounts}, fill)


def translate_x(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Move images to the left by `amounts` pixels."""
    return _affine(images, {"c": amounts}, fill)


def translate_y(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Move images up by `amounts` pixels."""
    return _affine(images, {"f": amounts}, fill)


def translate_x_share(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Move images to the left by `amounts` times their width."""
    return translate_x(images, amounts * images.shape[3], fill)


def translate_y_share(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Move images up by `amounts` times their height."""
    return translate_y(images, amounts * images.shape[2], fill)


def rotate(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Turn images counterclockwise around their centre by `amounts` degrees."""
    x, y = images.shape[3] / 2, images.shape[2] / 2
    angle = torch.deg2rad(amounts.double())
    cos, sin = angle.cos(), angle.sin()
    shift = {"c": x - cos * x + sin * y, "f": y - sin * x - cos * y}
    return _affine(images, {"a": cos, "b": -sin, "d": sin, "e": cos, **shift}, fill)


def brightness(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Multiply images by `amounts`."""
    return _blend(torch.zeros_like(images), images, amounts)


def color(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Extrapolate from the grey image: 0 is grey, 1 changes nothing."""
    return _blend((grey(images) + 0.5).floor_(), images, amounts) if images.shape[1] == 3 else images


def contrast(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Extrapolate from the mean grey: 0 is that grey, 1 changes nothing."""
    levels = (grey(images) + 0.5).floor_().double().mean((1, 2, 3), keepdim=True)
    return _blend((levels + 0.5).floor_().float(), images, amounts)


def sharpness(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Extrapolate from a smoothed image: 0 is smooth, 1 changes nothing. Pixels at the border are not smoothed."""
    height, width = images.shape[2:]
    smooth = images.clone()
    if min(height, width) > 2:
        rows = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
        box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
        smooth[:, :, 1:-1, 1:-1] = ((box + 4 * images[:, :, 1:-1, 1:-1]) / 13 + 0.5).floor_()
    return _blend(smooth, images, amounts)


def posterize(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Keep the highest `amounts` bits, a whole number from 0 to 8, of each value."""
    unit = torch.exp2(8 - _column(amounts))
    return (images / unit).floor_().mul_(unit)


def solarize(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Invert the values from `amounts` on."""
    return torch.where(images < _column(amounts), images, 255 - images)


def solarize_add(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Add `amounts` to the values below 128."""
    return torch.where(images < 128, (images + _column(amounts)).clamp_max_(255), images)


def invert(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Subtract each value from 255."""
    return 255 - images


def autocontrast(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Stretch each channel to the values 0 to 255."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    stretched = ((images - low).mul_(255) / (high - low).clamp_min_(1)).floor_()
    return torch.where(high > low, stretched, images)


def equalize(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Change the values of each channel so that their histogram is as even as possible."""
    values = images.flatten(2).flatten(0, 1).long()
    counts = torch.zeros(len(values), 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(1, values, torch.ones_like(values))
    last = counts.gather(1, values.amax(1, keepdim=True))  # the count of the highest value
    step = (values.shape[1] - last) // 255
    before = counts.cumsum(1) - counts
    table = ((before + step // 2) // step.clamp_min(1)).clamp_max_(255)
    return torch.where(step > 0, table.gather(1, values), values).view(images.shape).float()


def apply_operations(
    images: Tensor, chosen: Tensor, amounts: Tensor, *, operations: tuple[Operation, ...], fill: Tensor
) -> Tensor:
    """Apply to each image one operation.

    Args:
        images: Shape (batch, channels, height, width), whole values from 0 to 255.
        chosen: The operation of each image as an index into `operations`, int64 (batch,).
        amounts: The amount of each image for its operation, shape (batch,).
        operations: The operations to choose from.
        fill: Colour outside of an image, shape (channels,).
    """
    # On a GPU no index is read on the host, which would wait for the device; on a processor work counts.
    apply = _apply_to_all if images.is_cuda else _apply_to_own
    return apply(images, chosen, amounts, operations=operations, fill=fill)


def _apply_to_all(
    images: Tensor, chosen: Tensor, amounts: Tensor, *, operations: tuple[Operation, ...], fill: Tensor
) -> Tensor:
    """Apply every operation to all images and keep the one that is chosen."""
    result = images
    for index, operation in enumerate(operations):
        selected = chosen == index
        changed = operation(images, amounts.where(selected, 1.0), fill)  # every operation can take 1
        result = torch.where(selected[:, None, None, None], changed, result)
    return result


def _apply_to_own(
    images: Tensor, chosen: Tensor, amounts: Tensor, *, operations: tuple[Operation, ...], fill: Tensor
) -> Tensor:
    """Apply each operation to the images that have it."""
    result = torch.empty_like(images)
    for index in chosen.unique().tolist():
        rows = (chosen == index).nonzero().flatten()
        result[rows] = operations[index](images[rows], amounts[rows], fill)
    return result


def _column(amounts: Tensor) -> Tensor:
    return amounts.float()[:, None, None, None]


def _blend(other: Tensor, images: Tensor, amounts: Tensor) -> Tensor:
    """Return `other + amounts * (images - other)`, cut to 0 to 255 and rounded down as in Pillow."""
    return ((images - other) * _column(amounts) + other).clamp_(0, 255).floor_()


def _affine(images: Tensor, coefficients: dict[str, Tensor], fill: Tensor) -> Tensor:
    """Resample images so that pixel (x, y) shows the point (a x + b y + c, d x + e y + f), bilinearly as in Pillow.

    Coordinates are those of pixel centres, in pixels from the top left corner. Missing coefficients are the identity's.
    """
    batch, _, height, width = images.shape
    device = images.device
    one = torch.ones(batch, dtype=torch.float64, device=device)
    a, b, c, d, e, f = (
        coefficients.get(name, one * (name in "ae")).double()[:, None, None] for name in ("a", "b", "c", "d", "e", "f")
    )
    x = (torch.arange(width, dtype=torch.float64, device=device) + 0.5)[None, None, :]
    y = (torch.arange(height, dtype=torch.float64, device=device) + 0.5)[None, :, None]
    across, down = a * x + b * y + c, d * x + e * y + f
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    grid = torch.stack((2 * across / width - 1, 2 * down / height - 1), -1).float()
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(inside[:, None], (moved + 0.5).floor_(), fill[:, None, None].float())
