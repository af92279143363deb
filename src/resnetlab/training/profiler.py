"""The stages that an image goes through in training, each measured alone, and which one holds the rest back."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import RunConfig
from resnetlab.data.dataset import Split
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.packed_sequences import PackedByteRanges
from resnetlab.data.images.storage import drop_page_cache, read_image_bytes
from resnetlab.data.loader import augment_batch, augmentation_params, thread_pool
from resnetlab.data.shards.remote import CACHE_GIB, RemoteShard
from resnetlab.data.transforms import crop_boxes
from resnetlab.training.optimizer import set_mode
from resnetlab.training.trainer_setup import Training, prepare

STAGES = ("storage", "decoding", "augmentation", "transfer", "step")
AHEAD = ("storage", "decoding")
"""Stages that go on beside the others, in threads."""
HELD = 512
"""Encoded images that are kept in memory to measure decoding."""
COLD = 4096
"""Images whose bytes are read to measure storage, at most."""
SMALL_STEP, LARGE = 32, 64
"""On a CPU steps of images from `LARGE` pixels a side on are measured with so many at most: its speed hardly depends on
how many there are, and 256 photographs take minutes."""


@dataclass(frozen=True)
class StageSpeeds:
    """Speeds in images a second; `None` for a stage that there is nothing to do in."""

    speeds: dict[str, float | None]
    """By the names of `STAGES`."""
    together: float
    """Of training as it is, all stages at once."""
    bytes_per_s: float | None
    """That storage gave."""
    cold: bool
    """Whether the kernel's page cache was emptied of the images before storage was measured."""
    far: bool
    """Whether images come from an address: storage is that address, past the cache."""
    side: float
    """Mean shorter side of the images in pixels."""
    shown: int
    """Side at which they are shown, in pixels."""
    batch_size: int
    """Of the recipe; steps are measured with `measured_batch` images."""
    measured_batch: int
    workers: int
    device: str
    execution: str
    """Precision, layout, compiled or not."""

    @property
    def bottleneck(self) -> str:
        """The stage that holds the rest back.

        Storage and decoding go on beside the others, which follow one another: the slowest of the former where it is
        slower than the latter together, and else the slowest of the latter.
        """
        known = {name: speed for name, speed in self.speeds.items() if speed is not None}
        ahead = {name: speed for name, speed in known.items() if name in AHEAD}
        after = {name: speed for name, speed in known.items() if name not in AHEAD}
        in_turn = 1 / sum(1 / speed for speed in after.values())
        parts = ahead if ahead and min(ahead.values()) < in_turn else after
        return min(parts, key=lambda name: parts[name])


def measure_stages(
    config: RunConfig,
    *,
    workers: int,
    seconds: float = 1.0,
    cache_gib: float = CACHE_GIB,
    tell: Callable[[str], None] = lambda stage: None,
) -> StageSpeeds:
    """Open the data, build the network, and measure each stage for about so many seconds; nothing is written.

    `tell` hears what is done next.

    Raises:
        ConfigError: as `prepare` does.
        BadImageError: for an image that cannot be decoded, unless such images are left out.
        RemoteError: where an address does not answer.
    """
    tell("opening the data")
    training = prepare(config, None, workers=workers, cache_gib=cache_gib)
    set_mode(training.model, config.recipe, 0)
    batch_size = training.config.recipe.batch_size
    if training.device.type == "cpu" and training.side(0) >= LARGE:
        less = replace(training.config.recipe, batch_size=min(batch_size, SMALL_STEP))
        training.config = replace(training.config, recipe=less)
    split = training.splits["train"]
    speeds: dict[str, float | None] = dict.fromkeys(STAGES)
    bytes_per_s, cold = None, False
    recipe, shown = training.config.recipe, training.side(0)
    if isinstance(split.images, EncodedImages):
        order = training.order(0)
        tell("storage")
        if split.shards is None:
            speeds["storage"], bytes_per_s, cold = _storage(split.images, order, max(1, workers), seconds)
        else:
            speeds["storage"], bytes_per_s = _fetching(split.images, order, seconds)
        tell("decoding")
        speeds["decoding"] = _decoding(split.images, training, workers, seconds)
    tell("augmentation, transfer and step")
    batch, labels = _some(split, training)
    chance = augmentation_params(0, 0, len(batch)).to(batch.device)
    layout = training.execution.memory_format

    def augment() -> int:
        return len(augment_batch(training.preprocessing, recipe, batch, chance, layout))

    speeds["augmentation"] = _rate(augment, seconds, training.device)
    if training.device.type == "cuda" and isinstance(split.images, EncodedImages):
        host = batch.cpu()
        speeds["transfer"] = _rate(lambda: len(host.to(training.device)), seconds, training.device)
    ready = augment_batch(training.preprocessing, recipe, batch, chance, layout)
    speeds["step"] = _rate(lambda: _step(training, ready, labels), seconds, training.device)
    tell("all together")
    together = _together(training, 2 * seconds)
    side = (
        float(split.images.sizes.min(1).values.float().mean())
        if isinstance(split.images, EncodedImages)
        else float(shown)
    )
    far = split.shards is not None
    return StageSpeeds(
        speeds,
        together,
        bytes_per_s,
        cold,
        far,
        side,
        shown,
        batch_size,
        recipe.batch_size,
        workers,
        training.device.type,
        training.execution.name,
    )


def _storage(images: EncodedImages, order: Tensor, workers: int, seconds: float) -> tuple[float, float, bool]:
    """Read the bytes of images in an epoch's order; return images and bytes a second, and whether they were cold."""
    chosen = order[:COLD].tolist()
    places = [images.places[sample] for sample in chosen]
    cold = all(drop_page_cache(place) for place in places)
    count = total = 0
    with thread_pool(workers) as pool:
        assert pool is not None
        start_s = time.perf_counter()
        for some in range(0, len(places), 16 * workers):
            total += sum(map(len, pool.map(read_image_bytes, places[some : some + 16 * workers])))
            count += len(places[some : some + 16 * workers])
            if time.perf_counter() - start_s > seconds:
                break
        gone_s = time.perf_counter() - start_s
    return count / gone_s, total / gone_s, cold


def _fetching(images: EncodedImages, order: Tensor, seconds: float) -> tuple[float, float]:
    """Read shards in an epoch's order as they are fetched, but past the cache; return images and bytes a second."""
    assert isinstance(images.places, PackedByteRanges)
    places, count, total = images.places, 0.0, 0
    used, first = np.unique(places.which[order.numpy()], return_index=True)
    start_s = time.perf_counter()
    for number in used[np.argsort(first)].tolist():
        shard, own = places.shards[number], int((places.which == number).sum())
        assert isinstance(shard, RemoteShard)
        for block in shard.blocks():
            count, total = count + own * len(block) / shard.entry.bytes, total + len(block)
            gone_s = time.perf_counter() - start_s
            if gone_s > seconds:
                return count / gone_s, total / gone_s
    gone_s = time.perf_counter() - start_s
    return count / gone_s, total / gone_s


def _decoding(images: EncodedImages, training: Training, workers: int, seconds: float) -> float:
    """Decode images that are in memory, as training does, in as many threads."""
    chosen = training.order(0)[:HELD]
    kept = replace(images.subset(chosen), places=[read_image_bytes(images.places[at]) for at in chosen.tolist()])
    batches = _batches(len(kept), training.config.recipe.batch_size)
    with thread_pool(workers) as pool:
        return _rate(lambda: len(_decoded(kept, training, next(batches), pool)), seconds)


def _batches(count: int, size: int) -> Iterator[Tensor]:
    """Yield samples, again and again from the first on."""
    start = 0
    while True:
        yield torch.arange(start, start + size) % count
        start += size


def _decoded(images: EncodedImages, training: Training, samples: Tensor, pool: Executor | None) -> Tensor:
    """Cut some images out as the recipe does, or return their views."""
    recipe, shown = training.config.recipe, training.side(0)
    if recipe.crop == "pad":
        return images.begin_views(samples, pool)()[0]
    box = crop_boxes(recipe, images.sizes[samples], augmentation_params(0, 0, len(samples)), shown)
    return images.begin_crops(samples, box, pool, shown)()[0]


def _some(split: Split, training: Training) -> tuple[Tensor, Tensor]:
    """Return a batch before augmentation, on the device."""
    samples = training.order(0)[: training.config.recipe.batch_size]
    labels = split.labels[samples.to(split.labels.device)]
    if isinstance(split.images, Tensor):
        return split.images[samples.to(split.images.device)], labels
    with thread_pool(max(1, training.workers)) as pool:
        pixels = _decoded(split.images, training, samples, pool)
    return pixels.to(training.device), labels[: len(pixels)]


def _step(training: Training, images: Tensor, labels: Tensor) -> int:
    training.optimizer.zero_grad()
    loss, _ = training.forward(images, labels)
    loss.backward()
    loss.item()
    training.optimizer.step()
    return len(labels)


def _together(training: Training, seconds: float) -> float:
    """Train for a while; return images a second."""

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        epoch = 0
        while True:
            yield from training.batches(epoch, 0)
            epoch += 1

    batches = endless()
    try:
        return _rate(lambda: _step(training, *next(batches)), seconds, training.device)
    finally:
        batches.close()  # type: ignore[attr-defined]


def _rate(work: Callable[[], int], seconds: float, device: torch.device | None = None) -> float:
    """Repeat some work, once unmeasured and then for so long; return images a second."""
    cuda = device is not None and device.type == "cuda"

    def done() -> float:
        if cuda:
            torch.cuda.synchronize(device)
        return time.perf_counter()

    work()
    start_s = now_s = done()
    count = 0
    while count == 0 or now_s - start_s < seconds:
        count += work()
        now_s = done()
    return count / (now_s - start_s)
