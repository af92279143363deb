"""Batches of a split for training and evaluation.

Which sample is at a position of an epoch and how it is augmented is a function of (seed, epoch, position) alone.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Generator as Generated
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from resnetlab.config import ConfigError, Preprocessing, Recipe
from resnetlab.data.augmentation import (
    FLIP_PARAM,
    alternating_flips,
    apply_in_chunks,
    augment_batch,
    recipe_params,
)
from resnetlab.data.dataset import Split
from resnetlab.data.images.encoded import Decoded
from resnetlab.data.mixing import draw_mix, is_mixing, mix_pairs, mix_params, whole_pairs
from resnetlab.data.sampler import epoch_order, train_order
from resnetlab.data.transforms import crop_boxes, normalise, resize_boxes
from resnetlab.serialization import check
from resnetlab.system.process_group import ProcessGroup

PREFETCH_BATCHES = 3
"""Number of batches that are decoded ahead of the one that the caller waits for."""
Batch = tuple[Tensor, Tensor]
"""Float images (batch, channels, height, width) and int64 labels (batch,); in training with a recipe that mixes images,
the share of each class, float32 (batch, classes)."""
Batches = Generated[Batch, None, None]
"""Batches in order; call `close()` to stop early."""


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Return the number of full batches in an epoch; the remaining samples, different in each epoch, are left out.

    Raises:
        ConfigError: If there is no full batch.
    """
    if num_samples < batch_size:
        remedy = "give more images"
        if num_samples >= 2:
            remedy = (
                f"give a batch size of {num_samples} or less (train: --batch-size {num_samples}, study: --set "
                f"batch_size={num_samples}), or more images"
            )
        raise ConfigError(f"batch size {batch_size} is larger than the training set of {num_samples} images; {remedy}")
    return num_samples // batch_size


def train_batches(
    split: Split,
    preprocessing: Preprocessing,
    recipe: Recipe,
    *,
    seed: int,
    epoch: int,
    first_step: int = 0,
    workers: int = 0,
    memory_format: torch.memory_format = torch.channels_last,
    process_group: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
    micro_batches: int = 1,
    image_size: int | None = None,
    num_classes: int | None = None,
) -> Batches:
    """Yield this process's share of an epoch's augmented batches, in order, on the device of the split.

    A batch is divided into micro-batches, and each micro-batch among the processes. All processes
    combined get the samples, crops and flips that a single process would get, micro-batch by micro-batch. Close the
    iterator to end its threads early.

    Args:
        split: The training split.
        preprocessing: Normalisation and image size.
        recipe: Batch size and augmentation.
        seed: Seed of the sample order and of the augmentation.
        epoch: Number of the epoch, from 0.
        first_step: Number of batches at the start of the epoch to skip.
        workers: Number of threads that decode encoded images a few batches ahead; 0 decodes in the calling thread.
            The batches do not depend on it.
        memory_format: Memory format of the images.
        process_group: This process's rank and the number of processes.
        micro_batches: Number of micro-batches in a batch.
        image_size: Side of the images in pixels; the preprocessing's if not given.
        num_classes: Number of classes; needed by a recipe that mixes images.

    Yields:
        Images and labels of one micro-batch; fewer than usual if images that cannot be decoded are left out. The labels
        of a recipe that mixes images are the share of each class, float32 (batch, num_classes).

    Raises:
        ConfigError: If batch size or `first_step` are out of range, or fewer than 2 images of a micro-batch are left.
        BadImageError: If an image cannot be decoded, unless such images are left out.
    """
    num_steps, batch_size = steps_per_epoch(len(split), recipe.batch_size), recipe.batch_size
    check(first_step >= 0, f"first_step must be at least 0, not {first_step}")
    num_shares = process_group.size * micro_batches
    order = train_order(split, recipe, seed=seed, epoch=epoch)
    params = recipe_params(recipe, seed=seed, epoch=epoch, num_samples=len(split))
    mixes = mix_params(seed, epoch, num_steps) if is_mixing(recipe) else None
    if recipe.alternate_flip:
        params[:, FLIP_PARAM] = alternating_flips(seed, epoch, order)
    if isinstance(split.images, Tensor):
        order, params = order.to(split.images.device), params.to(split.images.device)
    side = image_size or preprocessing.image_size

    def boxes_of(sizes: Tensor, positions: slice) -> Tensor:
        return crop_boxes(recipe, sizes, params[positions], image_size=side)

    batches = _batch_slices(num_steps * batch_size, batch_size, first_step)
    own = [part for batch in batches for part in own_slices(batch, process_group, micro_batches)]
    slices = own if mixes is None else map(whole_pairs, own)
    crop = None if recipe.crop == "pad" else _Crop(boxes_of, side)
    loaded = _load(split, order, slices, workers=workers, crop=crop, upcoming=order[first_step * batch_size :])
    for (images, positions), part in zip(loaded, own, strict=True):
        _check_size(images, recipe, num_shares)
        own_params, labels = params[positions].to(images.device), split.labels[order[positions]]
        images = augment_batch(
            images, preprocessing, recipe, params=own_params, image_size=side, memory_format=memory_format
        )
        if mixes is not None:
            mix = draw_mix(recipe, mixes[part.start // batch_size], num_classes)
            images, labels = mix_pairs(images, labels, positions, own=part, mix=mix)
            _check_size(images, recipe, num_shares)
        yield images, labels


def _check_size(images: Tensor, recipe: Recipe, num_shares: int) -> None:
    """Raise `ConfigError` if fewer than two images of a share of a batch could be decoded."""
    if len(images) < 2:
        raise ConfigError(
            f"only {len(images)} of the {recipe.batch_size // num_shares} images of a batch can be decoded, and "
            "training needs 2; list the others with: resnetlab data check PATH"
        )


def eval_batches(
    split: Split,
    preprocessing: Preprocessing,
    batch_size: int = 256,
    *,
    workers: int = 0,
) -> Batches:
    """Yield every sample of a split once, in its order, without augmentation; `workers` is as for `train_batches`.

    A batch is smaller if images are left out, and skipped if none is left.

    Raises:
        BadImageError: If an image cannot be decoded, unless such images are left out.
    """
    for _, images, labels in eval_batches_with_positions(split, preprocessing, batch_size, workers=workers):
        yield images, labels


def eval_batches_with_positions(
    split: Split,
    preprocessing: Preprocessing | None,
    batch_size: int = 256,
    *,
    workers: int = 0,
) -> Generated[tuple[Tensor, Tensor, Tensor], None, None]:
    """Yield the batches of `eval_batches`, each preceded by its samples' positions in the split: int64, (batch,).

    Without `preprocessing`, images are uint8 and not normalised, for a network that normalises them itself.
    """

    def normalise_chunk(images: Tensor, _: Tensor) -> Tensor:
        assert preprocessing is not None
        return normalise(images, preprocessing)

    order = torch.arange(len(split))
    if isinstance(split.images, Tensor):
        order = order.to(split.images.device)
    for images, positions in _load(split, order, _batch_slices(len(split), batch_size), workers=workers):
        if len(images):
            if preprocessing is not None:
                images = apply_in_chunks(normalise_chunk, images, images, memory_format=torch.channels_last)
            yield order[positions], images, split.labels[positions]


def sample_images(split: Split, preprocessing: Preprocessing, count: int, *, workers: int = 0) -> Batch:
    """Return `count` images of a split, preprocessed as for evaluation, and their labels; all if there are fewer.

    The images are drawn from the whole split, whose samples are sorted by class. The draw is always the same.

    Raises:
        BadImageError: If an image cannot be decoded, unless such images are left out.
    """
    selected = epoch_order(split, 0, 0)[:count]
    return next(eval_batches(split.subset(selected), preprocessing, len(selected), workers=workers))


@contextmanager
def thread_pool(num_threads: int) -> Iterator[Executor | None]:
    """Provide a pool of threads, or `None` for 0 threads; tasks that have not started at the end are cancelled."""
    if num_threads == 0:
        yield None
        return
    pool = ThreadPoolExecutor(num_threads, "decode")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Crop:
    """A crop that resizes."""

    boxes_of: Callable[[Tensor, slice], Tensor]
    """Returns the boxes for image sizes (batch, 2) at the given positions of the epoch."""
    size: int
    """Side of the crop in pixels."""


def _batch_slices(num_positions: int, batch_size: int, first: int = 0) -> Iterator[slice]:
    """Yield the positions of each batch, from batch number `first` on."""
    for start in range(first * batch_size, num_positions, batch_size):
        yield slice(start, min(start + batch_size, num_positions))


def own_slices(batch: slice, process_group: ProcessGroup, micro_batches: int) -> Iterator[slice]:
    """Yield this process's positions in each micro-batch of a batch."""
    for number in range(micro_batches):
        micro_batch = ProcessGroup(number, micro_batches).local_slice(batch.stop - batch.start)
        own = process_group.local_slice(micro_batch.stop - micro_batch.start)
        start = batch.start + micro_batch.start
        yield slice(start + own.start, start + own.stop)


def _load(
    split: Split,
    order: Tensor,
    slices: Iterable[slice],
    *,
    workers: int,
    crop: _Crop | None = None,
    upcoming: Tensor | None = None,
) -> Iterator[tuple[Tensor, slice | Tensor]]:
    """Yield the images of each slice of `order` before augmentation, and the positions of those that were decoded.

    Images are uint8, or float in [0, 1], on the device of the split and channels last in memory. `upcoming` are the
    samples to prefetch, in the order of their use; all of `order` if not given.
    """
    images = split.images
    if isinstance(images, Tensor):
        image_shape = torch.tensor(images.shape[2:], device=images.device)
        for positions in slices:
            pixels = _select(images, order[positions])
            if crop is not None:
                boxes = crop.boxes_of(image_shape.expand(len(pixels), -1), positions)
                pixels = resize_boxes(pixels, boxes, crop.size)
            yield pixels, positions
        return
    encoded = images
    with encoded.prefetch(order if upcoming is None else upcoming), thread_pool(workers) as pool:

        def submit(positions: slice) -> Callable[[], Decoded]:
            samples = order[positions]
            if crop is None:
                return encoded.submit_eval_views(samples, pool)
            boxes = crop.boxes_of(encoded.sizes[samples], positions)
            return encoded.submit_crops(samples, boxes, pool, size=crop.size)

        for positions, (pixels, good) in _submit_ahead(submit, slices, PREFETCH_BATCHES if pool else 0):
            yield pixels.to(split.labels.device), torch.arange(positions.start, positions.stop)[good]
    encoded.confirm_shards()  # no result rests on a damaged shard


def _submit_ahead(
    submit: Callable[[slice], Callable[[], Decoded]], slices: Iterable[slice], ahead: int
) -> Iterator[tuple[slice, Decoded]]:
    """Yield decoded batches in order, with up to `ahead` further batches submitted."""
    pending: deque[tuple[slice, Callable[[], Decoded]]] = deque()
    for positions in slices:
        pending.append((positions, submit(positions)))
        if len(pending) > ahead:
            first, finish = pending.popleft()
            yield first, finish()
    for first, finish in pending:
        yield first, finish()


def _select(images: Tensor, samples: Tensor) -> Tensor:
    """Return resident images, channels last in memory; `index_select` takes a tenth of the time of indexing."""
    if images.is_contiguous(memory_format=torch.channels_last):
        return images.permute(0, 2, 3, 1).index_select(0, samples).permute(0, 3, 1, 2)
    return torch.stack(images.index_select(0, samples).unbind(1), -1).permute(0, 3, 1, 2)
