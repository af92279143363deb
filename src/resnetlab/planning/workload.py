"""A network, data and a recipe by name → the work that a plan is about."""

import itertools
from functools import cache
from typing import NamedTuple

import torch

from resnetlab.config import ConfigError, DataConfig, ModelConfig, Recipe
from resnetlab.data.images.scan import scan_headers
from resnetlab.data.images.storage import stored_size
from resnetlab.data.open_dataset import HELD_OUT, list_dataset
from resnetlab.data.registry import INDEX, dataset_path, detect_kind, is_address
from resnetlab.data.residency import eval_geometry, stays_resident
from resnetlab.data.shards.fetch import RemoteReader
from resnetlab.data.shards.format import read_index
from resnetlab.models.cost import Cost, cost
from resnetlab.models.zoo import build_model, model_config
from resnetlab.planning.benchmark import time_training_image
from resnetlab.planning.plan import Cluster, Workload, plan
from resnetlab.planning.published_speeds import COMPARED, IMAGENET_TRAIN, PublishedSpeed

IMAGENET_BYTES = 137.8e9
"""Of the training archive, `ILSVRC2012_img_train.tar`."""
LOOKED_AT = 4096
"""Images of a folder whose lengths are looked at, evenly spread, at most."""
MEASURED = 64
"""Likewise, images whose sides are."""
PHOTOGRAPHS = ((375, 500), (500, 375))
"""Height and width of ImageNet's images, most of them, and of images about which nothing is known: shown at 224."""


class ImageStats(NamedTuple):
    """What a plan needs to know of a data set."""

    number: int
    """Of those that are trained on."""
    bytes: float
    """Of each, where it is read from, on average."""
    side: int
    """In pixels, at which `train` shows them if nobody says otherwise."""
    total: int = 0
    """Of all splits."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Height and width of some; none of an archive with a name, which is kept in memory in any case."""


SETS = {
    "imagenet": ImageStats(IMAGENET_TRAIN, IMAGENET_BYTES / IMAGENET_TRAIN, 224, IMAGENET_TRAIN + 50_000, PHOTOGRAPHS),
    "cifar10": ImageStats(45_000, 3072.0, 32),
    "cifar100": ImageStats(45_000, 3072.0, 32),
    "mnist": ImageStats(54_000, 784.0, 28),
    "fashion-mnist": ImageStats(54_000, 784.0, 28),
    "digits": ImageStats(1257, 64.0, 8),
}


def workload_of(model: ModelConfig, data: str, recipe: Recipe, image_size: int | None, *, half: bool) -> Workload:
    """Return the work of training a network on a data set as a recipe says.

    `data` is a name of `SETS`, or a folder, parquet files or shards as `train` takes them, which are counted and not
    decoded. As in training, the last images of an epoch that fill no step sit out.

    Raises:
        ConfigError: where it is none of these, or a step has more images than there are.
    """
    images = SETS[data] if data in SETS else count_images(data)
    num_images, image_size = images.number, image_size or images.side
    epoch_steps = num_images // recipe.batch_size
    if epoch_steps == 0:
        raise ConfigError(
            f"a step of {recipe.batch_size:,} images, and there are {num_images:,} to train on; "
            "use a smaller --batch-size"
        )
    network = build_model(model)
    starts = [*recipe.train_sizes, (1.0, 0)] if recipe.train_sizes else [(0.0, image_size), (1.0, 0)]
    counted = [(cost(network, size), size, after - start) for (start, size), (after, _) in itertools.pairwise(starts)]
    steps = recipe.steps or recipe.epochs * epoch_steps
    image_bytes = 0.0 if stay_resident(images, image_size, recipe) else images.bytes
    return Workload(counted, model.shortcut != "none", num_images, image_bytes, steps, recipe.batch_size, half)


def stay_resident(images: ImageStats, size: int, recipe: Recipe) -> bool:
    """Say whether `train` decodes images once and keeps them in memory, shown at `size` pixels a side."""
    if not images.sizes:
        return True
    return stays_resident(torch.tensor(images.sizes), size, DataConfig(), recipe.crop != "pad", images.total)


def count_images(data: str) -> ImageStats:
    """Count the images of a data set that are trained on, and their bytes on average; of some the headers are read.

    Of shards the index alone is read, whose bytes are those of the tar files, and which knows no sides: they are taken
    for photographs.

    Raises:
        ConfigError: where there are none, or in a layout that `train` does not know either.
    """
    config = DataConfig(data)
    try:
        kind = detect_kind(config)
    except ConfigError as error:
        if is_address(data):
            raise
        raise ConfigError(f"{error}; a plan knows {', '.join(SETS)} by name") from error
    splits, sizes = (_of_shards(data), []) if kind == "shards" else _of_listings(config)
    number, total = splits.get("train") or splits["all"]
    if number == 0:
        raise ConfigError(f"data {data!r}: no image to train on")
    held_out = {**HELD_OUT, "test": 0.1} if "all" in splits else HELD_OUT if "val" not in splits else {}
    some = tuple(sizes) or PHOTOGRAPHS
    side, _ = eval_geometry(torch.tensor(some), None, None)
    trained_on = round(number * (1 - sum(held_out.values())))
    return ImageStats(trained_on, total / number, side, sum(count_images for count_images, _ in splits.values()), some)


def _of_listings(config: DataConfig) -> tuple[dict[str, tuple[int, float]], list[tuple[int, int]]]:
    """Return images and bytes of each split, about; and height and width of some images."""
    splits, sizes = {}, []
    for split, listing in list_dataset(config).splits.items():
        step = max(1, -(-len(listing) // LOOKED_AT))
        lengths = [length for place in listing.places[::step] if (length := stored_size(place)) >= 0]
        splits[split] = len(listing), sum(lengths) / max(1, len(lengths)) * len(listing)
        some = listing.places[:: max(1, -(-len(listing) // MEASURED))]
        headers, _ = scan_headers([""] * len(some), some, config.max_megapixels * 1_000_000)
        sizes += [(header.height, header.width) for header in headers if header is not None]
    return splits, sizes


def _of_shards(data: str) -> dict[str, tuple[int, float]]:
    """Return images and bytes of each split as `index.json` says."""
    if is_address(data):
        try:
            text = RemoteReader(data).small(INDEX)
        except FileNotFoundError:
            raise ConfigError(f"{data}: there is no {INDEX}, so no shards that resnetlab data pack made") from None
    else:
        text = (dataset_path(data) / INDEX).read_bytes()
    index = read_index(text, f"{data}/{INDEX}")
    return {
        split: (sum(entry.samples for entry in entries), sum(entry.bytes for entry in entries))
        for split, entries in index.splits.items()
    }


def predict_published(figure: PublishedSpeed) -> float:
    """Return the images a second that a plan says where others measured."""
    counted = [(_cost(figure.model, size), size, share) for size, share in figure.sizes]
    work = Workload(counted, True, IMAGENET_TRAIN, 0.0, 1, figure.batch_size * figure.devices, figure.half)
    return plan(work, Cluster(figure.devices, COMPARED[figure.device], decode_s=0.0)).images_per_s


@cache
def _cost(name: str, size: int) -> Cost:
    return cost(build_model(model_config(name)), size)


def measure_here(model: ModelConfig, work: Workload, devices: int) -> float:
    """Return the seconds that a core of this machine needs for a training image, over the sides at which it is shown.

    One process measures, with one thread, however many devices the plan is about.
    """
    each = -(-work.batch_size // devices)
    return sum(
        share * time_training_image(build_model(model), size, each, half=work.half) for _, size, share in work.counted
    )
