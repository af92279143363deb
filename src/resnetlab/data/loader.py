"""Order is a function: which sample stands where, and how it is augmented, follows from (seed, epoch, position)."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Generator as Generated
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from resnetlab.config import ConfigError, Preprocessing, Recipe
from resnetlab.data.dataset import Split
from resnetlab.data.images.encoded import Decoded
from resnetlab.data.rng import make_generator
from resnetlab.data.sampler import epoch_order
from resnetlab.data.transforms import (
    colour_jitter,
    crop_boxes,
    normalise,
    pca_lighting,
    random_crop,
    random_flip,
    resize_boxes,
)
from resnetlab.system.process_group import ProcessGroup

DRAWS = 12
"""Random numbers of a training image: 0 crop down, 1 crop across, 2 flip, 3 scale or area, 4 aspect, 5 to 7 brightness,
contrast and saturation, 8 to 10 lighting, 11 spare."""
AHEAD = 3
"""Batches whose decoding has begun before they are asked for."""
CACHED = 1 << 19
"""Values worked on together: as floats, 2 MiB."""

Batch = tuple[Tensor, Tensor]
"""Float images (batch, channels, height, width) and int64 labels (batch,)."""
Batches = Generated[Batch, None, None]
"""Batches in order; `close()` it to stop early."""


def augmentation_params(seed: int, epoch: int, num_samples: int) -> Tensor:
    """Return the random numbers of each position of an epoch: uniform in [0, 1), shape (num_samples, DRAWS)."""
    return torch.rand(num_samples, DRAWS, generator=make_generator(seed, "augment", epoch))


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Return how many whole batches an epoch has; the remainder, other samples in each epoch, sits out.

    Raises:
        ConfigError: where there is not even one.
    """
    if num_samples < batch_size:
        raise ConfigError(
            f"batch size {batch_size} is larger than the training set of {num_samples} images; "
            f"use at most {num_samples}"
        )
    return num_samples // batch_size


def train_batches(
    split: Split,
    preprocessing: Preprocessing,
    recipe: Recipe,
    seed: int,
    epoch: int,
    *,
    first_step: int = 0,
    workers: int = 0,
    memory_format: torch.memory_format = torch.channels_last,
    world: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
    parts: int = 1,
    size: int | None = None,
) -> Batches:
    """Yield an epoch's batches, in order, from step `first_step` on, where the split lives.

    Each batch in so many `parts` one after the other, and of each part what is this process's of `world`: together all
    processes see the samples, crops and flips that one alone would, part by part. Images of a crop that resizes are
    shown at `size` pixels a side, the preprocessing's if not given.

    Encoded images are decoded by `workers` threads, a few batches ahead, or by the caller's own if 0; the batches are
    the same. An image that is left out makes its batch smaller. Close the iterator, and its threads end.

    Raises:
        ConfigError: for a batch size above the number of samples, or a batch left with fewer than 2 images.
        BadImageError: for an image that cannot be decoded, unless such images are left out.
    """
    num_steps = steps_per_epoch(len(split), recipe.batch_size)
    order = epoch_order(split, seed, epoch)
    chance = augmentation_params(seed, epoch, len(split))
    if isinstance(split.images, Tensor):
        order, chance = order.to(split.images.device), chance.to(split.images.device)

    shown = size or preprocessing.image_size

    def box(sizes: Tensor, at: slice) -> Tensor:
        return crop_boxes(recipe, sizes, chance[at], shown)

    batches = _slices(num_steps * recipe.batch_size, recipe.batch_size, first_step)
    slices = (part for whole in batches for part in _parts(whole, world, parts))
    coming = order[first_step * recipe.batch_size :]
    for images, kept in _load(split, order, slices, workers, None if recipe.crop == "pad" else (box, shown), coming):
        if len(images) < 2:
            raise ConfigError(
                f"only {len(images)} of the {recipe.batch_size // (world.size * parts)} images of a batch can be "
                "decoded, and training needs 2; list the others with: resnetlab data check PATH"
            )
        seen = augment_batch(preprocessing, recipe, images, chance[kept].to(images.device), memory_format)
        yield seen, split.labels[order[kept]]


def augment_batch(
    preprocessing: Preprocessing,
    recipe: Recipe,
    images: Tensor,
    chances: Tensor,
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """Return images, cut out if that is done while decoding, as the network sees them; `chances` are their `augmentation_params`."""
    return _in_parts(partial(_augment, preprocessing, recipe), images, chances, memory_format)


def eval_batches(
    split: Split,
    preprocessing: Preprocessing,
    batch_size: int = 256,
    *,
    workers: int = 0,
    memory_format: torch.memory_format = torch.channels_last,
) -> Batches:
    """Yield every sample of a split once, in its own order, without augmentation; decoded as for training.

    An image that is left out makes its batch smaller, and a batch without any is left out too.

    Raises:
        BadImageError: for an image that cannot be decoded, unless such images are left out.
    """
    numbered = eval_batches_with_positions(
        split, preprocessing, batch_size, workers=workers, memory_format=memory_format
    )
    for _, images, labels in numbered:
        yield images, labels


def eval_batches_with_positions(
    split: Split,
    preprocessing: Preprocessing | None,
    batch_size: int = 256,
    *,
    workers: int = 0,
    memory_format: torch.memory_format = torch.channels_last,
) -> Generated[tuple[Tensor, Tensor, Tensor], None, None]:
    """Yield as `eval_batches` does, with the position of each sample in the split before its image: int64, (batch,).

    Without `preprocessing` the images are as they came, uint8: for a network that normalises them itself.
    """
    order = torch.arange(len(split))
    if isinstance(split.images, Tensor):
        order = order.to(split.images.device)
    for images, kept in _load(split, order, _slices(len(split), batch_size), workers):
        if len(images):
            if preprocessing is not None:
                images = _in_parts(partial(_evaluated, preprocessing), images, images, memory_format)
            yield order[kept], images, split.labels[kept]


def sample_images(split: Split, preprocessing: Preprocessing, count: int, *, workers: int = 0) -> Batch:
    """Return `count` images of a split and their labels, as evaluation sees them; all of them where there are fewer.

    They are drawn over the whole split, in which samples stand class by class, and are always the same.

    Raises:
        BadImageError: for an image that cannot be decoded, unless such images are left out.
    """
    chosen = epoch_order(split, 0, 0)[:count]
    images = split.images[chosen] if isinstance(split.images, Tensor) else split.images.subset(chosen)
    return next(eval_batches(Split(images, split.labels[chosen]), preprocessing, len(chosen), workers=workers))


def _slices(num_positions: int, batch_size: int, first: int = 0) -> Iterator[slice]:
    """Yield the positions of each batch, from batch `first` on."""
    for start in range(first * batch_size, num_positions, batch_size):
        yield slice(start, min(start + batch_size, num_positions))


def _parts(whole: slice, world: ProcessGroup, parts: int) -> Iterator[slice]:
    """Yield the positions that are this process's of each part of a batch, which are those of any number of them."""
    for number in range(parts):
        part = ProcessGroup(number, parts).part(whole.stop - whole.start)
        own = world.part(part.stop - part.start)
        start = whole.start + part.start
        yield slice(start + own.start, start + own.stop)


def _load(
    split: Split,
    order: Tensor,
    slices: Iterable[slice],
    workers: int,
    crop: tuple[Callable[[Tensor, slice], Tensor], int] | None = None,
    coming: Tensor | None = None,
) -> Iterator[tuple[Tensor, slice | Tensor]]:
    """Yield the images of each batch as they are, or cut out and resized as `crop` says, and which positions they have.

    `coming` are the samples that will be read, in their order; all of `order` if not given.

    uint8, or float 0 to 1, where the split lives and channels last in memory.
    """
    images = split.images
    if isinstance(images, Tensor):
        whole = torch.tensor(images.shape[2:], device=images.device)
        for at in slices:
            pixels = _take(images, order[at])
            if crop is not None:
                box, size = crop
                pixels = resize_boxes(pixels, box(whole.expand(len(pixels), -1), at), size)
            yield pixels, at
        return
    encoded = images
    with encoded.ahead(order if coming is None else coming), thread_pool(workers) as pool:

        def begin(at: slice) -> Callable[[], Decoded]:
            samples = order[at]
            if crop is None:
                return encoded.begin_views(samples, pool)
            box, size = crop
            return encoded.begin_crops(samples, box(encoded.sizes[samples], at), pool, size)

        for at, (pixels, good) in _ahead(begin, slices, AHEAD if pool else 0):
            yield pixels.to(split.labels.device), torch.arange(at.start, at.stop)[good]


def _ahead(
    begin: Callable[[slice], Callable[[], Decoded]], slices: Iterable[slice], ahead: int
) -> Iterator[tuple[slice, Decoded]]:
    """Yield what was begun, in order, with `ahead` more begun meanwhile."""
    begun: deque[tuple[slice, Callable[[], Decoded]]] = deque()
    for at in slices:
        begun.append((at, begin(at)))
        if len(begun) > ahead:
            first, finish = begun.popleft()
            yield first, finish()
    for first, finish in begun:
        yield first, finish()


@contextmanager
def thread_pool(num_threads: int) -> Iterator[Executor | None]:
    """Lend so many threads, none for 0; at the end, or an early one, what has not begun never will."""
    if num_threads == 0:
        yield None
        return
    pool = ThreadPoolExecutor(num_threads, "decode")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _take(images: Tensor, samples: Tensor) -> Tensor:
    """Return some resident images, channels last in memory; `index_select` takes a tenth of indexing's time."""
    if images.is_contiguous(memory_format=torch.channels_last):
        return images.permute(0, 2, 3, 1).index_select(0, samples).permute(0, 3, 1, 2)
    return torch.stack(images.index_select(0, samples).unbind(1), -1).permute(0, 3, 1, 2)


def _in_parts(
    function: Callable[[Tensor, Tensor], Tensor], images: Tensor, chances: Tensor, memory_format: torch.memory_format
) -> Tensor:
    """Apply a function to a few images at a time, so that what one operation writes the next finds in the cache."""
    part = max(1, CACHED // images[0].numel())
    if len(images) <= part or images.is_cuda:
        return function(images, chances).contiguous(memory_format=memory_format)
    result = torch.empty(images.shape, device=images.device, memory_format=memory_format)
    for some, few, target in zip(images.split(part), chances.split(part), result.split(part), strict=True):
        target.copy_(function(some, few))
    return result


def _augment(preprocessing: Preprocessing, recipe: Recipe, images: Tensor, chances: Tensor) -> Tensor:
    """Apply everything random but the box of `scale` and `resized`, and normalise.

    The crop of `pad` comes after normalisation: its padding is zero to the network (section 4.2).
    """
    if recipe.crop != "pad" and recipe.flip:
        images = random_flip(images, chances[:, 2])
    if recipe.jitter or recipe.lighting:
        images = images.float().div_(255) if images.dtype == torch.uint8 else images
        images = images.contiguous()  # by planes: weighing red, green and blue takes half the time
        images = colour_jitter(images, recipe.jitter, chances[:, 5:8]) if recipe.jitter else images
        images = pca_lighting(images, recipe.lighting, chances[:, 8:11]) if recipe.lighting else images
    images = normalise(images, preprocessing)
    if recipe.crop == "pad" and (recipe.crop_padding or recipe.flip):
        mirrored = chances[:, 2] < 0.5 if recipe.flip else None
        images = random_crop(images, recipe.crop_padding, chances[:, :2], mirrored)
    return images


def _evaluated(preprocessing: Preprocessing, images: Tensor, _: Tensor) -> Tensor:
    return normalise(images, preprocessing)
