"""Initial weights from a model file: preprocessing, head, and deepening of a shallower network.

Paper: section 1, the solution by construction.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from resnetlab.config import ConfigError, Preprocessing, RunConfig
from resnetlab.data.dataset import Dataset, Split
from resnetlab.data.loader import sample_images
from resnetlab.data.rng import make_generator
from resnetlab.evaluation.class_matching import match_classes
from resnetlab.evaluation.self_check.quick_check import contradiction
from resnetlab.models.deepen import deepen, max_difference, num_calibration_images
from resnetlab.models.model_card import read_card
from resnetlab.models.model_file import load_model
from resnetlab.models.pretrained.convert import weights_title
from resnetlab.models.resnet import ResNet
from resnetlab.serialization import check, differences, from_json
from resnetlab.training.run_files.checkpoint import Checkpoint

if TYPE_CHECKING:
    from resnetlab.training.run_data import RunData

HEAD = "fc."
FREE = ("name", "num_classes", "init_scale", "zero_init_residual", "stage_blocks")
"""Fields in which the file's network may differ: those that do not shape its layers, the head, and the depth."""


def source_preprocessing(config: RunConfig, checkpoint: Checkpoint | None) -> Preprocessing | None:
    """Return the preprocessing of the model file that a run starts from, at the run's image size; else `None`.

    Colour profiles are treated as in the file, unless the configuration of the data says otherwise.

    A resumed run reads it from its checkpoint and does not need the file; the configuration may have another image size
    now. At another image size than the stored one, a mean for each pixel becomes a mean for each channel.

    Raises:
        ModelFileError: if the file cannot be read.
        ConfigError: if the network of the file reads rectangles, and the configuration has no image size.
    """
    if checkpoint is not None:
        saved = checkpoint.state.get("preprocessing")
        if saved is None:
            return None
        resumed = from_json(Preprocessing, saved)
        return _at_size(resumed, config.data.image_size or resumed.image_size)
    if config.weights is None:
        return None
    stored = read_card(config.weights).preprocessing
    if config.data.color_profiles is not None:
        stored = dataclasses.replace(stored, color_profiles=config.data.color_profiles)
    size = config.data.image_size or stored.image_size
    if stored.image_width not in (None, size):
        check(
            config.data.image_size is not None,
            f"{config.weights} reads images of {stored.size_text} pixels, and training crops squares; give a side with "
            "--image-size",
        )
    return _at_size(stored, size)


def _at_size(stored: Preprocessing, size: int) -> Preprocessing:
    """Return a preprocessing for squares of `size` pixels."""
    if stored.pixel_mean and (size, size) != stored.input_size:
        pixels = len(stored.pixel_mean) // len(stored.mean)
        channels = [stored.pixel_mean[start : start + pixels] for start in range(0, len(stored.pixel_mean), pixels)]
        means = tuple(math.fsum(values) / pixels for values in channels)
        return dataclasses.replace(stored, image_size=size, image_width=None, mean=means, pixel_mean=())
    return dataclasses.replace(stored, image_size=size, image_width=None)


def match_channels(data: Dataset, channels: int, weights: str | None) -> dict[str, Split]:
    """Return the splits of a data set with the channels of the network; grey images become three equal channels.

    Raises:
        ConfigError: if the images are in colour, and the network of the file `weights` reads grey ones.
    """
    if data.train.channels != channels and (data.train.channels, channels) != (1, 3):
        raise ConfigError(
            f"the network of {weights} sees images of {channels} channel{'s' * (channels > 1)}, and those of "
            f"{data.name} have {data.train.channels}; start from a network for such images"
        )
    return {name: split.with_channels(channels) for name, split in data.splits.items()}


def init_from_file(config: RunConfig, model: ResNet, data: "RunData") -> dict[str, Any]:
    """Load the weights of the file `config.weights` into `model`.

    If the classes are the same, in any order, the head comes from the file, row by row. With other classes, even as
    many, the network keeps its random head. A shallower network of the same kind is deepened by identity blocks
    (`models.deepen`), calibrated on training images.

    Returns:
        The record's `start` entry: the `file`; whether the `head` was "kept" or "reordered" or is "new"; for a deepened
        network also the `depth` of the file's, the largest difference of logits to it, and the training error in %
        before the first step; `contradiction` if the statistics in imported weights disagree with the images.

    Raises:
        ModelFileError: if the file cannot be read.
        ConfigError: if it holds another network.
    """
    wanted, path, workers = config.model, config.weights, data.options.workers
    train, preprocessing = data.host_splits["train"], data.preprocessing
    assert path is not None
    source, card = load_model(path)
    other = [field for field in differences(card.model, wanted) if field.partition(":")[0] not in FREE]
    if other or len(card.model.stage_blocks) != len(wanted.stage_blocks):
        raise ConfigError(
            f"{path} holds {card.model.name}, which is not the network {wanted.name} of this run"
            f" ({'; '.join(other) or 'another number of stages'})"
        )
    start: dict[str, Any] = {"file": path}
    if config.data.on_bad_image == "fail":  # else the sample may have no image
        seen = dataclasses.replace(card, preprocessing=preprocessing)
        disagreement = contradiction(source, seen, train, workers=workers)
        start |= {} if disagreement is None else {"contradiction": disagreement}
    given = source
    if card.model.stage_blocks != wanted.stage_blocks:
        images, _ = sample_images(
            train, preprocessing, num_calibration_images(preprocessing.image_size), workers=workers
        )
        try:
            given = deepen(source, wanted.stage_blocks, images=images, generator=make_generator(config.seed, "weights"))
        except ConfigError as error:
            raise ConfigError(f"{path} cannot be made {wanted.name} ({error})") from error
        start |= {"depth": card.model.depth, "max_logit_difference": max_difference(source, given, images)}
    start["head"], head = _match_head(given, card.classes, data.dataset.classes)
    body = {key: value for key, value in given.state_dict().items() if not key.startswith(HEAD)}
    model.load_state_dict({**model.state_dict(), **body, **head})
    if "depth" in start:
        start["train_error_pct"] = data.score_split(model, train, preprocessing, workers=workers).error_pct
    return start


def _match_head(model: ResNet, theirs: Sequence[str], ours: Sequence[str]) -> tuple[str, dict[str, Tensor]]:
    """Return whether the head fits a run with the classes `ours` (`HEADS`), and its tensors in their order.

    Classes are matched by name, as in evaluation.
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
    """Return the record's `start` entry as one line of text."""
    words = f"{weights_title(start['file'])}: {HEADS[start['head']]}"
    if "depth" not in start:
        return words
    return (
        f"{words}; its {start['depth']} layers, and identity blocks; logits differ by "
        f"{start['max_logit_difference']:.2g} at most, training error {start['train_error_pct']:.2f} %"
    )
