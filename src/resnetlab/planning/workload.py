"""The workload of a training, built from the names of a network, a data set and a recipe."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from resnetlab.config import ConfigError, DataConfig, ModelConfig, Recipe
from resnetlab.data.images.scan import scan_headers
from resnetlab.data.images.storage import stored_size
from resnetlab.data.list_dataset import list_dataset
from resnetlab.data.registry import INDEX_FILE, dataset_path, detect_kind, is_url
from resnetlab.data.residency import eval_geometry, stays_resident
from resnetlab.data.shards.fetch import RemoteReader
from resnetlab.data.shards.format import read_index
from resnetlab.data.splits import split_sizes
from resnetlab.models.cost import cost_of_config
from resnetlab.models.zoo import build_model, model_config
from resnetlab.planning.benchmark import time_training_image
from resnetlab.planning.plan import Cluster, CostAtSize, Workload, plan
from resnetlab.planning.published_speeds import COMPARED_DEVICES, IMAGENET_TRAIN, PublishedSpeed

IMAGENET_BYTES = 137.8e9
"""Size of the training archive, `ILSVRC2012_img_train.tar`."""
MAX_LENGTHS = 4096
"""Images of a split whose encoded size is read, at most. They are evenly spaced."""
MAX_HEADERS = 64
"""Images of a split whose height and width are read, at most. They are evenly spaced."""
PHOTOGRAPH_SIZES = ((375, 500), (500, 375))
"""Height and width of most ImageNet images, also assumed for images of unknown size. `train` resizes them to 224."""


class ImageStats(NamedTuple):
    """The number and size of a data set's images."""

    num_train: int
    """Images of the training split, without those held out for validation and test."""
    mean_bytes: float
    """Mean size of an image where it is stored."""
    image_size: int
    """Side of the network's input in pixels, as `train` selects it by default."""
    num_images: int = 0
    """Images of all splits."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Height and width of a sample of the images. Empty for a known data set that always stays in memory."""


KNOWN_STATS = {
    "imagenet": ImageStats(
        num_train=IMAGENET_TRAIN,
        mean_bytes=IMAGENET_BYTES / IMAGENET_TRAIN,
        image_size=224,
        num_images=IMAGENET_TRAIN + 50_000,
        sizes=PHOTOGRAPH_SIZES,
    ),
    "cifar10": ImageStats(45_000, 3072.0, 32),
    "cifar100": ImageStats(45_000, 3072.0, 32),
    "mnist": ImageStats(54_000, 784.0, 28),
    "fashion-mnist": ImageStats(54_000, 784.0, 28),
    "digits": ImageStats(1257, 64.0, 8),
}
"""Statistics of the data sets that a plan knows by name."""


def image_stats(data: str, reading: Mapping[str, Any] | None = None) -> ImageStats:
    """Return the number and size of a data set's images.

    Args:
        data: A name of `KNOWN_STATS`, or a folder, parquet files or shards as `train` takes them. Their images are
            counted, not decoded.
        reading: Fields of `DataConfig` that say how the data are read, such as `split_folders`.

    Raises:
        ConfigError: If `reading` is given for a known data set; as `count_images` for others.
    """
    given = [name for name, value in (reading or {}).items() if value is not None]
    if data in KNOWN_STATS and given:
        raise ConfigError(f"--{given[0].replace('_', '-')} is for your own images, and {data} is a known data set")
    return KNOWN_STATS[data] if data in KNOWN_STATS else count_images(data, reading)


def build_workload(
    model: ModelConfig, stats: ImageStats, recipe: Recipe, *, image_size: int | None, half: bool
) -> Workload:
    """Return the workload of training a network on a data set with a recipe.

    As in training, each epoch drops the last images that do not fill a step.

    Args:
        model: The network.
        stats: Number and size of the images.
        recipe: The recipe.
        image_size: Side of the network's input in pixels; `None` for the default of `train`.
        half: Whether activations and products have 16 bits.

    Raises:
        ConfigError: If a step needs more images than there are.
    """
    image_size = image_size or stats.image_size
    epoch_steps = stats.num_train // recipe.batch_size
    if epoch_steps == 0:
        raise ConfigError(
            f"a step needs {recipe.batch_size:,} images, and there are {stats.num_train:,} to train on; "
            "use a smaller --batch-size"
        )
    starts = [*recipe.train_sizes, (1.0, 0)] if recipe.train_sizes else [(0.0, image_size), (1.0, 0)]
    return Workload(
        costs=[
            CostAtSize(cost_of_config(model, size), size, end - start)
            for (start, size), (end, _) in itertools.pairwise(starts)
        ],
        residual=model.shortcut != "none",
        num_images=stats.num_train,
        image_bytes=0.0 if images_stay_resident(stats, image_size, recipe) else stats.mean_bytes,
        steps=recipe.steps or recipe.epochs * epoch_steps,
        batch_size=recipe.batch_size,
        half=half,
    )


def images_stay_resident(stats: ImageStats, image_size: int, recipe: Recipe) -> bool:
    """Return whether `train` decodes images once, at `image_size` pixels a side, and stores them in memory."""
    if not stats.sizes:
        return True
    return stays_resident(
        torch.tensor(stats.sizes),
        (image_size, image_size),
        DataConfig(),
        keep_encoded=recipe.crop != "pad",
        num_images=stats.num_images,
    )


def count_images(data: str, reading: Mapping[str, Any] | None = None) -> ImageStats:
    """Count the images of a data set and estimate their size; the headers of a sample are read.

    `reading` has fields of `DataConfig` that say how the data are read, such as `split_folders`.

    For shards only `index.json` is read. Their mean size is that of the tar files, and their images are assumed to be
    photographs.

    Raises:
        ConfigError: If the data set has no images, or `train` does not know its layout either.
    """
    config = DataConfig(data, **(reading or {}))
    try:
        kind = detect_kind(config)
    except ConfigError as error:
        if is_url(data):
            raise
        raise ConfigError(f"{error}; a plan knows {', '.join(KNOWN_STATS)} by name") from error
    splits, sizes = (_count_shards(data), []) if kind == "shards" else _count_listing(config)
    counts, total_bytes = splits.get("train") or splits["all"]
    if sum(counts) == 0:
        raise ConfigError(f"data {data!r}: no image to train on")
    sample = tuple(sizes) or PHOTOGRAPH_SIZES
    image_size, _ = eval_geometry(torch.tensor(sample), None)
    return ImageStats(
        num_train=split_sizes({name: counts for name, (counts, _) in splits.items()})["train"],
        mean_bytes=total_bytes / sum(counts),
        image_size=image_size,
        num_images=sum(sum(counts) for counts, _ in splits.values()),
        sizes=sample,
    )


def _count_listing(config: DataConfig) -> tuple[dict[str, tuple[list[int], float]], list[tuple[int, int]]]:
    """Return the images of each class and the estimated bytes of each split, and height and width of a sample."""
    splits, sizes = {}, []
    for split, listing in list_dataset(config).splits.items():
        stride = max(1, -(-len(listing) // MAX_LENGTHS))
        lengths = [length for place in listing.storage[::stride] if (length := stored_size(place)) >= 0]
        splits[split] = listing.image_counts(), sum(lengths) / max(1, len(lengths)) * len(listing)
        sample = listing.storage[:: max(1, -(-len(listing) // MAX_HEADERS))]
        headers, _ = scan_headers([""] * len(sample), sample, config.max_megapixels * 1_000_000)
        sizes += [(header.height, header.width) for header in headers if header is not None]
    return splits, sizes


def _count_shards(data: str) -> dict[str, tuple[list[int], float]]:
    """Return the number of images and the bytes of each split, from `index.json`, which does not count classes."""
    if is_url(data):
        try:
            text = RemoteReader(data).read_small(INDEX_FILE)
        except FileNotFoundError:
            raise ConfigError(f"{data}: has no {INDEX_FILE}; give the URL of shards from resnetlab data pack") from None
    else:
        text = (dataset_path(data) / INDEX_FILE).read_bytes()
    index = read_index(text, f"{data}/{INDEX_FILE}")
    return {
        split: ([sum(entry.samples for entry in entries)], sum(entry.bytes for entry in entries))
        for split, entries in index.splits.items()
    }


def predict_published_speed(published: PublishedSpeed) -> float:
    """Return the images per second that a plan predicts under the conditions of a published speed."""
    work = Workload(
        costs=[
            CostAtSize(cost_of_config(model_config(published.model), size), size, share)
            for size, share in published.sizes
        ],
        residual=True,
        num_images=IMAGENET_TRAIN,
        image_bytes=0.0,
        steps=1,
        batch_size=published.batch_size * published.devices,
        half=published.half,
        tf32=not published.half and COMPARED_DEVICES[published.device].tf32_ops_per_s is not None,
    )
    return plan(work, Cluster(published.devices, COMPARED_DEVICES[published.device], decode_s=0.0)).images_per_s


def measure_local_core(model: ModelConfig, work: Workload, num_devices: int) -> float:
    """Return the seconds that a core of this machine needs for a training image, averaged over the image sizes.

    One process with one thread measures, whatever the number of devices.
    """
    device_batch = -(-work.batch_size // num_devices)
    return sum(
        share * time_training_image(build_model(model), image_size, device_batch, half=work.half)
        for _, image_size, share in work.costs
    )
