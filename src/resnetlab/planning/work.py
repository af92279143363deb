"""A network, data and a recipe by name → the work that a plan is about."""

import itertools
import os
from pathlib import Path

from resnetlab.config import ConfigError, ModelConfig, Recipe
from resnetlab.data.folder import SUFFIXES
from resnetlab.models.cost import cost
from resnetlab.models.zoo import build_model
from resnetlab.planning.plan import Work
from resnetlab.planning.published import IMAGENET_TRAIN

IMAGENET_BYTES = 137.8e9
"""Of the training archive, `ILSVRC2012_img_train.tar`."""
SETS = {
    "imagenet": (IMAGENET_TRAIN, IMAGENET_BYTES / IMAGENET_TRAIN),
    "cifar10": (45_000, 3072.0),
    "cifar100": (45_000, 3072.0),
    "mnist": (54_000, 784.0),
    "fashion-mnist": (54_000, 784.0),
    "digits": (1257, 64.0),
}
"""Training images, and bytes of each where it is read from."""
HELD_OUT = 0.1
"""Of a folder without a validation split."""


def work_of(model: ModelConfig, data: str, recipe: Recipe, image_size: int, *, half: bool) -> Work:
    """Return the work of training a network on a data set as a recipe says.

    `data` is a name of `SETS`, or a folder of images, which are counted and not read.

    Raises:
        ConfigError: where it is neither.
    """
    num_images, image_bytes = SETS[data] if data in SETS else _count(Path(data))
    network = build_model(model)
    starts = [*recipe.train_sizes, (1.0, 0)] if recipe.train_sizes else [(0.0, image_size), (1.0, 0)]
    counted = [(cost(network, size), size, after - start) for (start, size), (after, _) in itertools.pairwise(starts)]
    epochs = recipe.epochs if recipe.steps is None else recipe.steps * recipe.batch_size / num_images
    return Work(counted, model.shortcut != "none", num_images, image_bytes, epochs, recipe.batch_size, half)


def _count(path: Path) -> tuple[int, float]:
    """Count the images of a folder, those of `train` if there is such a one, and their bytes."""
    if not path.is_dir():
        raise ConfigError(f"data {str(path)!r} is neither a folder nor a known data set ({', '.join(SETS)})")
    train = path / "train"
    number = total = 0
    for folder, _, names in os.walk(train if train.is_dir() else path, followlinks=True):
        for name in names:
            if Path(name).suffix.lower() in SUFFIXES - {""}:
                number += 1
                total += (Path(folder) / name).stat().st_size
    if number == 0:
        raise ConfigError(f"{path}: no image in it ({', '.join(sorted(SUFFIXES - {''}))})")
    held_out = 0 if train.is_dir() else round(HELD_OUT * 2 * number)
    return number - held_out, total / number
