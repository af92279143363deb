"""`resnetlab.check_weights`: which assumptions about a network agree with the statistics in its weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnetlab.config import ConfigError, DataConfig, ModelConfig, Preprocessing
from resnetlab.evaluation.self_check.bn_agreement import bn_input_moments, layer_distances, running_moments
from resnetlab.evaluation.self_check.decision import CLOSE_PREPROCESSING, CLOSE_WIRING, Finding, best_by, decide
from resnetlab.evaluation.self_check.patch_moments import PatchMoments
from resnetlab.evaluation.self_check.preprocessing_candidates import (
    Normalisation,
    PreprocessingScore,
    decide_normalisation,
    first_layer,
    image_normalisation,
    normalisation_candidates,
    score_preprocessings,
)
from resnetlab.evaluation.self_check.sample_images import load_sample
from resnetlab.evaluation.self_check.training_views import (
    PHOTOGRAPH_VIEWS,
    SMALL_IMAGE_VIEWS,
    TrainingView,
    ViewKind,
    make_view,
    normalise_view,
)
from resnetlab.evaluation.self_check.wirings import LARGE_EPSILON, Wiring, build_wiring, wirings_of
from resnetlab.models.cost import cost
from resnetlab.models.importing.convert import BN_EPSILON
from resnetlab.models.resnet import ResNet

MIN_IMAGES = 64
"""With fewer images the noise of their statistics hides most differences (docs/results/weight-self-check.txt)."""
NUM_IMAGES = 512
"""Images of the first layer's check, at most."""
WIRING_MACS = 1e11
"""Multiply-adds of one wiring's forward passes, which bound its number of images."""
MIN_WIRING_IMAGES, MAX_WIRING_IMAGES = 32, 128
"""The map's positions are samples too, and wirings differ more than normalisations: fewer images suffice."""
BATCH_SIZE = 64
SMALL_SIZES, PHOTOGRAPH_SIZES = (32, 64), (128, 160, 192, 224, 288)
"""Usual sides of the input after a 3x3 stem, and after a stem with a pool."""
ORDERS = {False: "RGB", True: "BGR"}


@dataclass(frozen=True)
class WeightCheck:
    """The assumptions that agree best with the statistics of a network's batch normalisations."""

    findings: tuple[Finding, ...]
    """The properties that were tried, each with the score of every value."""
    wiring: Wiring
    """The wiring with the lowest score."""
    preprocessing: PreprocessingScore
    """The normalisation and channel order with the lowest score."""
    image_size: int
    """Side of the network's input in pixels, as given or by convention."""
    num_images: int
    """Images that were used."""
    decided: Mapping[str, Any] = field(default_factory=dict)
    """The clear values only, by name: `shortcut`, `zero_channels`, `bottleneck_stride`, `subsampling`, `stem_pool`,
    `bn_epsilon`, `normalisation`, `channel_order` and `image_size`."""


def check_weights(
    file: Path | str, data: DataConfig | str, *, image_size: int | None = None, tensors: str | None = None
) -> WeightCheck:
    """Compare each batch normalisation's stored statistics with what it sees of images, under each assumption.

    Labels are not used. The images should be of the kind that the network was trained on; 64 at least, some hundred are
    better. Scores are mean squared Hellinger distances: 0 is agreement. A value is decided where it agrees closely and
    every other value is three times as far.

    Args:
        file: A file of published weights, a model file, or a run directory.
        data: A folder of images, a table of labels, parquet files, shards, or the name of a data set.
        image_size: Side of the network's input in pixels; if not given, that of the model file, else 224 after a 7x7
            stem and 32 after a 3x3 stem.
        tensors: Key of the network to read, of several in one file.

    Raises:
        ModelFileError: if the file cannot be read.
        ConfigError: if the network has no batch normalisation, there are too few images, or one cannot be read, unless
            `data.on_bad_image` is `skip`.
    """
    from resnetlab.models.importing.import_weights import import_file_order
    from resnetlab.models.model_card import find_model_file, has_card
    from resnetlab.models.model_file import load_model

    data = DataConfig(data) if isinstance(data, str) else data
    path, given = find_model_file(file), None
    if has_card(path):
        model, card = load_model(path)
        given = card.preprocessing
    else:
        model = import_file_order(path, tensors=tensors).model
    size = image_size or (given.image_size if given else default_size(model.config))
    images = load_sample(data, NUM_IMAGES, model.config.in_channels)
    return check_network(model.config, model.state_dict(), images, image_size=size, given=given)


def default_size(config: ModelConfig) -> int:
    """Return the usual side of the input in pixels."""
    return 32 if config.stem == "cifar" else 224


def check_network(
    config: ModelConfig,
    state: Mapping[str, Tensor],
    images: Sequence[Tensor],
    *,
    image_size: int,
    given: Preprocessing | None = None,
) -> WeightCheck:
    """Check the weights of a `ResNet` on uint8 images (channels, height, width) of any size.

    Args:
        config: The architecture under any wiring.
        state: The weights; with option A, the channels are in the order of the file.
        images: At least `MIN_IMAGES`.
        image_size: Side of the network's input in pixels.
        given: A preprocessing whose mean and deviation are tried beside the common ones.

    Raises:
        ConfigError: if the network has no batch normalisation, or there are too few images.
    """
    if config.norm != "batch":
        raise ConfigError("the network has no batch normalisation, so its weights store no statistics to compare with")
    if len(images) < MIN_IMAGES:
        raise ConfigError(f"{len(images)} images are too few to compare statistics; give at least {MIN_IMAGES}")
    ratio = 1.0 if config.stem == "cifar" else 0.875
    first = build_wiring(config, state, next(wirings_of(config)))
    scores, views = _try_preprocessings(first, images, given, image_size=image_size, crop_ratio=ratio)
    best = scores[0]
    affordable = int(WIRING_MACS / cost(first, image_size=image_size).macs)
    count = min(len(images), MAX_WIRING_IMAGES, max(MIN_WIRING_IMAGES, affordable))
    inputs = network_input(views[best.view], best)[:count]
    wirings = {wiring: _score(build_wiring(config, state, wiring), inputs) for wiring in wirings_of(config)}
    wiring = min(wirings, key=lambda item: wirings[item])
    large = replace(wiring, bn_epsilon=LARGE_EPSILON)
    epsilons = {BN_EPSILON: wirings[wiring], LARGE_EPSILON: _score(build_wiring(config, state, large), inputs)}
    model = build_wiring(config, state, wiring)
    sizes = {image_size: _score(model, inputs, first=True)}
    smallest = min(min(image.shape[1:]) for image in images)
    for size in SMALL_SIZES if config.stem == "cifar" else PHOTOGRAPH_SIZES:
        if size != image_size and max(size, image_size) <= smallest:  # enlarged images are smoother than any
            other = make_view(images[:count], best.view, size, ratio)
            sizes[size] = _score(model, network_input(other, best), first=True)
    return _summarise(config, scores, wirings, {"bn_epsilon": epsilons, "image_size": sizes}, len(images))


def _try_preprocessings(
    first: ResNet,
    images: Sequence[Tensor],
    given: Preprocessing | None,
    *,
    image_size: int,
    crop_ratio: float,
) -> tuple[list[PreprocessingScore], dict[ViewKind, TrainingView]]:
    """Return the scores of all preprocessings, the best first, and the views of the images."""
    kinds = SMALL_IMAGE_VIEWS if first.config.stem == "cifar" else PHOTOGRAPH_VIEWS
    views: dict[ViewKind, TrainingView] = {kind: make_view(images, kind, image_size, crop_ratio) for kind in kinds}
    named = [] if given is None else [Normalisation("as given", given.mean, given.std)]
    candidates = [
        *normalisation_candidates(named, first.config.in_channels),
        image_normalisation(views["whole"].pixels),
    ]
    conv, norm = first_layer(first)
    moments: dict[ViewKind, PatchMoments] = {kind: PatchMoments.of(view, conv) for kind, view in views.items()}
    return score_preprocessings(conv, running_moments(norm), moments, candidates), views


def network_input(view: TrainingView, preprocessing: PreprocessingScore) -> Tensor:
    """Return the network's input for a normalisation and a channel order."""
    pixels = normalise_view(view, preprocessing.normalisation.mean, preprocessing.normalisation.std)
    return pixels.flip(1) if preprocessing.bgr else pixels


def _score(model: torch.nn.Module, inputs: Tensor, *, first: bool = False) -> float:
    """Return the mean distance of the layers; the first one, which every wiring shares, counts only if `first`."""
    distances = list(layer_distances(model, bn_input_moments(model, inputs.split(BATCH_SIZE))).values())
    counted = distances if first else distances[1:]
    return sum(counted) / len(counted)


def _summarise(
    config: ModelConfig,
    scores: Sequence[PreprocessingScore],
    wirings: Mapping[Wiring, float],
    others: Mapping[str, Mapping[Any, float]],
    num_images: int,
) -> WeightCheck:
    """Decide each property from the best score of each of its values."""
    findings, decided = [], {}

    def add(subject: str, name: str, values: Mapping[object, float], limit: float) -> None:
        value = decide(values, limit)
        if value is not None:
            decided[name] = value
        if len(values) > 1:
            text = {str(key): score for key, score in values.items()}
            findings.append(Finding(subject, text, None if value is None else str(value)))

    best = min(wirings, key=lambda item: wirings[item])
    items = list(wirings.items())
    if config.shortcut in ("pad", "none"):
        add("shortcuts", "shortcut", best_by([(wiring.shortcut, score) for wiring, score in items]), CLOSE_WIRING)
    residual = [(wiring, score) for wiring, score in items if wiring.shortcut == best.shortcut]
    for subject, name in (
        ("option A's zero channels", "zero_channels"),
        ("shortcuts halve the map by", "subsampling"),
        ("stride of bottlenecks", "bottleneck_stride"),
        ("pool of the stem", "stem_pool"),
    ):
        add(subject, name, best_by([(getattr(wiring, name), score) for wiring, score in residual]), CLOSE_WIRING)
    add("epsilon of BN", "bn_epsilon", best_by(list(others["bn_epsilon"].items())), CLOSE_WIRING)
    normalisation = decide_normalisation(scores)
    if normalisation is not None:
        decided["normalisation"] = normalisation
    named = best_by([(item.normalisation.name, item.score) for item in scores])
    findings.append(Finding("mean and deviation", named, None if normalisation is None else normalisation.name))
    add("channel order", "channel_order", best_by([(ORDERS[i.bgr], i.score) for i in scores]), CLOSE_PREPROCESSING)
    add("image size", "image_size", best_by(list(others["image_size"].items())), CLOSE_PREPROCESSING)
    size = int(next(iter(others["image_size"])))
    return WeightCheck(tuple(findings), best, scores[0], size, num_images, decided)
