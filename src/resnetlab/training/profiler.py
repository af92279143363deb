"""The speed of each stage of training: storage, decoding, augmentation, transfer, step; and the bottleneck."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import RunConfig
from resnetlab.data.augmentation import augment_batch, augmentation_params, recipe_params
from resnetlab.data.dataset import Split
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.packed_sequences import PackedByteRanges
from resnetlab.data.images.storage import drop_page_cache, read_image_bytes
from resnetlab.data.loader import thread_pool
from resnetlab.data.shards.remote import RemoteShard
from resnetlab.data.transforms import crop_boxes, resize_boxes
from resnetlab.system.cache_folder import CACHE_GIB
from resnetlab.training.execution.execution import kept_threads
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.trainer import Trainer

STAGES = ("storage", "decoding", "augmentation", "transfer", "step")
AHEAD = ("storage", "decoding")
"""Stages that run in worker threads, beside the others."""
NUM_DECODED = 512
"""Encoded images in memory that the measurement of decoding uses."""
NUM_READ = 4096
"""Upper limit of the images that the measurement of storage reads."""
MAX_LARGE_IMAGES, LARGE = 32, 64
"""On a CPU, steps with images of `LARGE` pixels or more use at most `MAX_LARGE_IMAGES` of them: the speed hardly
depends on the number, and 256 photographs take minutes."""


@dataclass(frozen=True)
class StageSpeeds:
    """Speeds in images per second; `None` for a stage with nothing to do."""

    speeds: dict[str, float | None]
    """Speed of each stage, by the names of `STAGES`."""
    all_stages: float
    """Speed of training itself, with all stages at once."""
    bytes_per_s: float | None
    """Throughput of storage."""
    cold: bool
    """Whether the images were dropped from the page cache before storage was measured."""
    is_remote: bool
    """Whether the images are remote: storage is then the remote server, bypassing the cache."""
    image_side: float
    """Mean shorter side of the stored images, in pixels."""
    train_side: int
    """Side of the training images, in pixels."""
    batch_size: int
    """Batch size of the recipe; the measured steps use `measured_batch` images."""
    measured_batch: int
    workers: int
    device: str
    execution: str
    """Precision, layout and compilation."""

    @property
    def bottleneck(self) -> str:
        """The stage that limits the speed of training.

        Storage and decoding run beside the other stages, which run one after another. The slowest of storage and
        decoding is the bottleneck if it is slower than the others in sequence; else the slowest of the others is.
        """
        known = {name: speed for name, speed in self.speeds.items() if speed is not None}
        ahead = {name: speed for name, speed in known.items() if name in AHEAD}
        after = {name: speed for name, speed in known.items() if name not in AHEAD}
        in_sequence = 1 / sum(1 / speed for speed in after.values())
        stages = ahead if ahead and min(ahead.values()) < in_sequence else after
        return min(stages, key=lambda name: stages[name])


@kept_threads()
def measure_stages(
    config: RunConfig,
    *,
    workers: int,
    time_s: float = 1.0,
    cache_gib: float = CACHE_GIB,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> StageSpeeds:
    """Measure each stage of training for about `time_s` seconds; write nothing.

    Args:
        config: The run.
        workers: Threads that decode images.
        time_s: Length of each measurement in seconds.
        cache_gib: Upper limit of the cache for remote shards.
        on_stage: Called with the name of each measurement before it starts.

    Raises:
        ConfigError: as `Trainer` does.
        BadImageError: if an image cannot be decoded, unless such images are skipped.
        RemoteError: if a remote server does not answer.
    """
    # Most epochs train all layers, and most steps take no layer statistics: a step that does is not the compiled one.
    config = replace(config, recipe=replace(config.recipe, frozen_epochs=0), layer_stats_steps=0)
    on_stage("opening the data")
    trainer = Trainer(config, options=RuntimeOptions(workers=workers, cache_gib=cache_gib))
    data = trainer.data
    batch_size = data.config.recipe.batch_size
    if data.device.type == "cpu" and data.image_size(0) >= LARGE:
        smaller = replace(data.config.recipe, batch_size=min(batch_size, MAX_LARGE_IMAGES))
        data.config = replace(data.config, recipe=smaller)
    split = data.splits["train"]
    speeds: dict[str, float | None] = dict.fromkeys(STAGES)
    bytes_per_s, cold = None, False
    recipe, train_side = data.config.recipe, data.image_size(0)
    if isinstance(split.images, EncodedImages):
        order = data.order(0)
        on_stage("storage")
        if split.shards is None:
            speeds["storage"], bytes_per_s, cold = _read(split.images, order, max(1, workers), time_s)
        else:
            speeds["storage"], bytes_per_s = _fetch(split.images, order, time_s)
        on_stage("decoding")
        speeds["decoding"] = _decode(split.images, trainer, workers, time_s)
    on_stage("augmentation, transfer and step")
    speeds |= _measure_device(trainer, split, time_s)
    on_stage("all together")
    all_stages = _train_for(trainer, 2 * time_s)
    image_side = float(train_side)
    if isinstance(split.images, EncodedImages):
        image_side = float(split.images.sizes.min(1).values.float().mean())
    return StageSpeeds(
        speeds=speeds,
        all_stages=all_stages,
        bytes_per_s=bytes_per_s,
        cold=cold,
        is_remote=split.shards is not None,
        image_side=image_side,
        train_side=train_side,
        batch_size=batch_size,
        measured_batch=recipe.batch_size,
        workers=workers,
        device=data.device.type,
        execution=trainer.execution.name,
    )


def _measure_device(trainer: Trainer, split: Split, time_s: float) -> dict[str, float | None]:
    """Measure the stages that run one after another: augmentation, transfer to a GPU, and the step."""
    data, recipe, device, side = (
        trainer.data,
        trainer.data.config.recipe,
        trainer.data.device,
        trainer.data.image_size(0),
    )
    batch, labels = _sample_batch(split, trainer)
    params = recipe_params(recipe, seed=0, epoch=0, num_samples=len(batch)).to(batch.device)
    layout = trainer.execution.memory_format

    def augment() -> Tensor:
        images = batch
        if isinstance(split.images, Tensor) and recipe.crop != "pad":  # encoded images are cropped while decoding
            sizes = torch.tensor(batch.shape[2:], device=batch.device).expand(len(batch), -1)
            images = resize_boxes(batch, crop_boxes(recipe, sizes, params, image_size=side), side)
        return augment_batch(images, data.preprocessing, recipe, params=params, image_size=side, memory_format=layout)

    speeds: dict[str, float | None] = {"augmentation": _rate(lambda: len(augment()), time_s, device)}
    if device.type == "cuda" and isinstance(split.images, EncodedImages):
        host = batch.cpu()
        speeds["transfer"] = _rate(lambda: len(host.to(device)), time_s, device)
    parts = trainer.grad_sync.micro_batches
    batches = cycle(zip(augment().chunk(parts), labels.chunk(parts), strict=True))
    speeds["step"] = _rate(lambda: _step(trainer, batches), time_s, device)
    return speeds


def _read(images: EncodedImages, order: Tensor, workers: int, time_s: float) -> tuple[float, float, bool]:
    """Read images in the order of an epoch; return images and bytes per second, and whether the page cache was cold."""
    samples = order[:NUM_READ].tolist()
    places = [images.storage[sample] for sample in samples]
    cold = all(drop_page_cache(place) for place in places)
    count = total = 0
    with thread_pool(workers) as pool:
        assert pool is not None
        start_s = time.perf_counter()
        for some in range(0, len(places), 16 * workers):
            total += sum(map(len, pool.map(read_image_bytes, places[some : some + 16 * workers])))
            count += len(places[some : some + 16 * workers])
            if time.perf_counter() - start_s > time_s:
                break
        elapsed_s = time.perf_counter() - start_s
    return count / elapsed_s, total / elapsed_s, cold


def _fetch(images: EncodedImages, order: Tensor, time_s: float) -> tuple[float, float]:
    """Fetch shards in the order of an epoch, bypassing the cache; return images and bytes per second."""
    assert isinstance(images.storage, PackedByteRanges)
    places, count, total = images.storage, 0.0, 0
    used, first = np.unique(places.shard_index[order.numpy()], return_index=True)
    start_s = time.perf_counter()
    for number in used[np.argsort(first)].tolist():
        shard, own = places.shards[number], int((places.shard_index == number).sum())
        assert isinstance(shard, RemoteShard)
        for block in shard.blocks():
            count, total = count + own * len(block) / shard.entry.bytes, total + len(block)
            elapsed_s = time.perf_counter() - start_s
            if elapsed_s > time_s:
                return count / elapsed_s, total / elapsed_s
    elapsed_s = time.perf_counter() - start_s
    return count / elapsed_s, total / elapsed_s


def _decode(images: EncodedImages, trainer: Trainer, workers: int, time_s: float) -> float:
    """Decode images in memory as training does, with as many threads; return images per second."""
    chosen = trainer.data.order(0)[:NUM_DECODED]
    kept = replace(images.subset(chosen), storage=[read_image_bytes(images.storage[at]) for at in chosen.tolist()])
    batches = _batches(len(kept), trainer.data.config.recipe.batch_size)
    with thread_pool(workers) as pool:
        return _rate(lambda: len(_decoded(kept, trainer, next(batches), pool)), time_s)


def _batches(count: int, size: int) -> Iterator[Tensor]:
    """Yield batches of positions below `count`, over and over."""
    start = 0
    while True:
        yield torch.arange(start, start + size) % count
        start += size


def _decoded(images: EncodedImages, trainer: Trainer, samples: Tensor, pool: Executor | None) -> Tensor:
    """Decode the crops of the recipe, or the evaluation views."""
    recipe, train_side = trainer.data.config.recipe, trainer.data.image_size(0)
    if recipe.crop == "pad":
        return images.submit_eval_views(samples, pool)()[0]
    box = crop_boxes(recipe, images.sizes[samples], augmentation_params(0, 0, len(samples)), image_size=train_side)
    return images.submit_crops(samples, box, pool, size=train_side)()[0]


def _sample_batch(split: Split, trainer: Trainer) -> tuple[Tensor, Tensor]:
    """Return a batch on the device, before augmentation."""
    samples = trainer.data.order(0)[: trainer.data.config.recipe.batch_size]
    labels = split.labels[samples.to(split.labels.device)]
    if isinstance(split.images, Tensor):
        return split.images[samples.to(split.images.device)], labels
    with thread_pool(max(1, trainer.options.workers)) as pool:
        pixels = _decoded(split.images, trainer, samples, pool)
    return pixels.to(trainer.data.device), labels[: len(pixels)]


def _step(trainer: Trainer, batches: Iterator[tuple[Tensor, Tensor]]) -> int:
    """Take a step of the run, and its first one again after its last; return the number of images."""
    trainer.state.step %= trainer.total_steps  # a learning rate beyond the end may be negative
    return trainer.train_step(batches).num_images


def _train_for(trainer: Trainer, time_s: float) -> float:
    """Train for `time_s` seconds; return images per second."""

    def all_epochs() -> Iterator[tuple[Tensor, Tensor]]:
        epoch = 0
        while True:
            yield from trainer.data.batches(epoch, memory_format=trainer.execution.memory_format)
            epoch += 1

    batches = all_epochs()
    try:
        return _rate(lambda: _step(trainer, batches), time_s, trainer.data.device)
    finally:
        batches.close()  # type: ignore[attr-defined]


def _rate(work: Callable[[], int], time_s: float, device: torch.device | None = None) -> float:
    """Repeat `work`, once unmeasured and then for `time_s` seconds; return images per second."""
    cuda = device is not None and device.type == "cuda"

    def now() -> float:
        if cuda:
            torch.cuda.synchronize(device)
        return time.perf_counter()

    work()
    start_s = now_s = now()
    count = 0
    while count == 0 or now_s - start_s < time_s:
        count += work()
        now_s = now()
    return count / (now_s - start_s)
