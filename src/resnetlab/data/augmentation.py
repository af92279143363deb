"""Augmentation of training batches: the random numbers of an epoch, and the transforms that use them."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from resnetlab.config import Preprocessing, Recipe
from resnetlab.data.auto_augment import NUM_AUTO_PARAMS, auto_augment
from resnetlab.data.random_erasing import NUM_ERASING_PARAMS, random_erasing
from resnetlab.data.rng import make_generator
from resnetlab.data.transforms import colour_jitter, normalise, pca_lighting, random_crop, random_flip, resize
from resnetlab.extension import AUGMENTATIONS

NUM_PARAMS = 12
"""Random numbers of a training image: 0 vertical and 1 horizontal crop offset, 2 flip, 3 scale or area, 4 aspect ratio,
5 to 7 brightness, contrast and saturation, 8 to 10 lighting, 11 unused."""
FLIP_PARAM = 2
"""Column of the flip's random number."""
CHUNK_VALUES = 1 << 19
"""Number of values that are processed together: 2 MiB as floats, which fits into a core's cache."""


CUSTOM_PARAMS = 4
"""Random numbers that each registered augmentation gets for an image."""

Augmentation = Callable[[Tensor, Tensor], Tensor]
"""Maps normalised images (batch, channels, height, width) and random numbers (batch, 4) to augmented images."""


def register_augmentation(name: str, augmentation: Augmentation) -> None:
    """Add an augmentation under `name`, for `Recipe(augmentations=(name,))`.

    Args:
        name: A new name.
        augmentation: Called after all others with float32 images (batch, channels, height, width), normalised, and
            random numbers (batch, 4), uniform in [0, 1). Returns images of the same shape. It must take its
            randomness from these numbers alone and treat images independently: then a resumed run, and a run with
            other workers or processes, sees the same images.

    Raises:
        ConfigError: if the name is taken.
    """
    AUGMENTATIONS.register(name, augmentation)


def augmentation_params(seed: int, epoch: int, num_samples: int, *, num_custom: int = 0) -> Tensor:
    """Return the random numbers for each position of an epoch, uniform in [0, 1).

    The shape is (num_samples, NUM_PARAMS + CUSTOM_PARAMS * num_custom), for `num_custom` registered augmentations.
    """
    params = torch.rand(num_samples, NUM_PARAMS, generator=make_generator(seed, "augment", epoch))
    if not num_custom:
        return params
    generator = make_generator(seed, "custom augment", epoch)
    return torch.cat([params, torch.rand(num_samples, CUSTOM_PARAMS * num_custom, generator=generator)], dim=1)


def recipe_params(recipe: Recipe, *, seed: int, epoch: int, num_samples: int) -> Tensor:
    """Return the random numbers for each position of an epoch that a recipe uses, uniform in [0, 1).

    First those of `augmentation_params`; then `NUM_AUTO_PARAMS` with `trivial_augment` or `rand_augment`; then
    `NUM_ERASING_PARAMS` with `random_erasing`. The numbers of one do not depend on the others.
    """
    params = [augmentation_params(seed, epoch, num_samples, num_custom=len(recipe.augmentations))]
    if recipe.trivial_augment or recipe.rand_augment is not None:
        generator = make_generator(seed, "auto augment", epoch)
        params.append(torch.rand(num_samples, NUM_AUTO_PARAMS, generator=generator))
    if recipe.random_erasing:
        generator = make_generator(seed, "random erasing", epoch)
        params.append(torch.rand(num_samples, NUM_ERASING_PARAMS, generator=generator))
    return torch.cat(params, dim=1) if len(params) > 1 else params[0]


def alternating_flips(seed: int, epoch: int, order: Tensor) -> Tensor:
    """Return the flip's random number for each position of an epoch with `Recipe.alternate_flip`.

    `order` is the sample at each position. A sample whose number is below one half in an epoch is above it in the next.
    """
    first = torch.rand(len(order), generator=make_generator(seed, "flip"))
    return ((first + 0.5 * (epoch % 2)) % 1)[order]


def augment_batch(
    images: Tensor,
    preprocessing: Preprocessing,
    recipe: Recipe,
    *,
    params: Tensor,
    image_size: int | None = None,
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """Augment and normalise a batch of images; crops with a box must have been cut out before.

    `params` are the rows of `recipe_params` for these images. After the crop of `pad`, images are resized to
    `image_size` if it is given.
    """
    side = image_size if recipe.crop == "pad" else None
    augment = partial(_augment, preprocessing, recipe, side)
    return apply_in_chunks(augment, images, params, memory_format=memory_format)


def apply_in_chunks(
    function: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    params: Tensor,
    *,
    memory_format: torch.memory_format,
) -> Tensor:
    """Apply a function to a few images at a time, so that each operation finds its input in the cache."""
    chunk = max(1, CHUNK_VALUES // images[0].numel())
    if len(images) <= chunk or images.is_cuda:
        return function(images, params).contiguous(memory_format=memory_format)
    first = function(images[:chunk], params[:chunk])
    shape = (len(images), *first.shape[1:])
    result = torch.empty(shape, device=images.device, memory_format=memory_format)
    result[:chunk] = first
    rest = zip(images[chunk:].split(chunk), params[chunk:].split(chunk), result[chunk:].split(chunk), strict=True)
    for inputs, rows, target in rest:
        target.copy_(function(inputs, rows))
    return result


def _augment(
    preprocessing: Preprocessing, recipe: Recipe, image_size: int | None, images: Tensor, params: Tensor
) -> Tensor:
    """Apply flip, automatic augmentation, colour jitter, lighting, normalisation, the crop of `pad` and erasing.

    The crop of `pad` follows normalisation, because its padding is zero after normalisation (section 4.2).
    """
    next_param = NUM_PARAMS + CUSTOM_PARAMS * len(recipe.augmentations)
    if recipe.crop != "pad" and recipe.flip:
        images = random_flip(images, params[:, FLIP_PARAM])
    if recipe.trivial_augment or recipe.rand_augment is not None:
        own = params[:, next_param : next_param + NUM_AUTO_PARAMS]
        images = auto_augment(images, recipe, own, mean=preprocessing.mean)
        next_param += NUM_AUTO_PARAMS
    if recipe.jitter or recipe.lighting:
        images = images.float().div_(255) if images.dtype == torch.uint8 else images
        images = images.contiguous()  # planar: weighting red, green and blue takes half the time
        images = colour_jitter(images, recipe.jitter, params[:, 5:8]) if recipe.jitter else images
        images = pca_lighting(images, recipe.lighting, params[:, 8:11]) if recipe.lighting else images
    images = normalise(images, preprocessing)
    if recipe.crop == "pad" and (recipe.crop_padding or recipe.flip):
        mirrored = params[:, FLIP_PARAM] < 0.5 if recipe.flip else None
        images = random_crop(images, recipe.crop_padding, params[:, :2], mirrored=mirrored)
    if image_size is not None and images.shape[-1] != image_size:
        images = resize(images, image_size)
    if recipe.random_erasing:
        images = random_erasing(images, recipe.random_erasing, params[:, next_param : next_param + NUM_ERASING_PARAMS])
    for index, name in enumerate(recipe.augmentations):
        start = NUM_PARAMS + CUSTOM_PARAMS * index
        images = AUGMENTATIONS[name](images, params[:, start : start + CUSTOM_PARAMS])
    return images
