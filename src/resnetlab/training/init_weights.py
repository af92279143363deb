"""Where a run's first weights come from, if not from chance: a model file, made deeper where it is shallower.

Paper: section 1, the solution by construction.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from resnetlab.config import ConfigError, Preprocessing, RunConfig
from resnetlab.data.dataset import Dataset, Split
from resnetlab.data.loader import sample_images
from resnetlab.data.rng import make_generator
from resnetlab.evaluation.class_matching import match_classes
from resnetlab.evaluation.protocols import score_split
from resnetlab.models.deepen import deepen, max_difference, num_calibration_images
from resnetlab.models.model_card import read_card
from resnetlab.models.model_file import load_model
from resnetlab.models.resnet import ResNet
from resnetlab.serialization import differences, from_json
from resnetlab.training.checkpoint import Checkpoint

HEAD = "fc."
FREE = ("name", "num_classes", "init_scale", "zero_init_residual", "stage_blocks")
"""Fields in which a file's network may differ: what does not shape its layers, the head, and the depth."""


def source_preprocessing(config: RunConfig, checkpoint: Checkpoint | None) -> Preprocessing | None:
    """Return how the network that a run starts from sees images, at the size that the run shows them; else `None`.

    A resumed run has it from its checkpoint and needs the file no more. (Checkpoints from before files had a say in
    this have none.) At another size than the file's a mean for each pixel becomes one for each channel.

    Raises:
        ModelFileError: where the file cannot be read.
    """
    if checkpoint is not None:
        saved = checkpoint.state.get("preprocessing")
        return None if saved is None else from_json(Preprocessing, saved)
    if config.weights is None:
        return None
    seen = read_card(config.weights).preprocessing
    size = config.data.image_size or seen.image_size
    if seen.pixel_mean and size != seen.image_size:
        pixels = seen.image_size**2
        channels = [seen.pixel_mean[start : start + pixels] for start in range(0, len(seen.pixel_mean), pixels)]
        means = tuple(math.fsum(values) / pixels for values in channels)
        return dataclasses.replace(seen, image_size=size, mean=means, pixel_mean=())
    return dataclasses.replace(seen, image_size=size)


def match_channels(data: Dataset, channels: int, weights: str | None) -> dict[str, Split]:
    """Return the splits of a data set as a network of so many channels is shown them.

    Raises:
        ConfigError: where it has the images in colour, and the network of the file `weights` sees grey ones.
    """
    splits = {name: split.with_channels(channels) for name, split in data.splits.items()}
    if splits["train"].channels != channels:
        raise ConfigError(
            f"the network of {weights} sees images of {channels} channel{'s' * (channels > 1)}, and those of "
            f"{data.name} have {data.train.channels}; start from a network for such images"
        )
    return splits


def init_from_file(config: RunConfig, model: ResNet, data: "RunData") -> dict[str, Any]:
    """Give a network the weights of the file `config.weights`.

    The head is the file's where the classes are: row by row, whatever order they stand in. Other classes, even as many,
    leave the network the head that was drawn for it. A file with a shallower network of the same kind is made deeper by
    identity blocks (`models.deepen`), calibrated on training images.

    Returns:
        What the record says of it: the `file`; whether the `head` was "kept", "reordered" or is "new"; of a deepened
        network the `depth` it had, the largest difference of logits to the shallower one, and its training error in %,
        before the first step.

    Raises:
        ModelFileError: where the file cannot be read.
        ConfigError: where it holds another network.
    """
    wanted, path = config.model, config.weights
    assert path is not None
    source, card = load_model(path)
    other = [field for field in differences(card.model, wanted) if field.partition(":")[0] not in FREE]
    if other or len(card.model.stage_blocks) != len(wanted.stage_blocks):
        raise ConfigError(
            f"{path} holds {card.model.name}, which is not the network {wanted.name} of this run"
            f" ({'; '.join(other) or 'another number of stages'})"
        )
    start: dict[str, Any] = {"file": path}
    given = source
    if card.model.stage_blocks != wanted.stage_blocks:
        images, _ = sample_images(train, preprocessing, num_calibration_images(preprocessing.image_size), workers=workers)
        try:
            given = deepen(source, wanted.stage_blocks, images=images, generator=make_generator(config.seed, "weights"))
        except ConfigError as error:
            raise ConfigError(f"{path} cannot be made {wanted.name} ({error})") from error
        start |= {"depth": card.model.depth, "max_logit_difference": max_difference(source, given, images)}
    start["head"], head = _head(given, card.classes, classes)
    body = {key: value for key, value in given.state_dict().items() if not key.startswith(HEAD)}
    model.load_state_dict({**model.state_dict(), **body, **head})
    if "depth" in start:
        start["train_error_pct"] = score_split(model, train, preprocessing, workers=workers).error_pct
    return start


def _head(model: ResNet, theirs: Sequence[str], ours: Sequence[str]) -> tuple[str, dict[str, Tensor]]:
    """Return what becomes of a head for the classes `theirs` in a run with the classes `ours`, and its tensors.

    Classes are matched by name, as evaluation does.
    """
    try:
        rows = match_classes(theirs, ours, model_name="the file", data_name="the data").tolist()
    except ConfigError:  # other names
        return "new", {}
    tensors = {f"{HEAD}{key}": value[rows] for key, value in model.fc.state_dict().items()}
    return "kept" if rows == sorted(rows) else "reordered", tensors


HEADS = {
    "kept": "head kept: the same classes",
    "reordered": "head reordered: the same classes in another order",
    "new": "new head: other classes",
}


def describe_init(start: dict[str, Any]) -> str:
    """Return what `init_from_file` found as people read it."""
    words = f"{start['file']}: {HEADS[start['head']]}"
    if "depth" not in start:
        return words
    return (
        f"{words}; its {start['depth']} layers, and identity blocks; logits differ by "
        f"{start['max_logit_difference']:.2g} at most, training error {start['train_error_pct']:.2f} %"
    )
