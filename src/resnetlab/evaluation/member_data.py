"""Images of an evaluation: which data set, in which preprocessing, and in the same order for several networks."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from resnetlab.config import READING_FIELDS, ConfigError, DataConfig, RunConfig
from resnetlab.data.dataset import Split
from resnetlab.data.eval_dataset import EvalDataset, open_eval_dataset, own_splits
from resnetlab.data.registry import is_same_data
from resnetlab.evaluation.options import EvaluationOptions
from resnetlab.models.model_card import ModelCard
from resnetlab.serialization import from_json


def resolve_data_config(
    card: ModelCard, data: DataConfig | None, file: Path, changes: Mapping[str, Any] | None = None
) -> DataConfig:
    """Return the data to open: `data` with the split seed of training, or the training data of the network.

    Args:
        card: The network's card.
        data: The data set; the network's training data if not given.
        file: The network's file, for the message.
        changes: Fields that replace those of the training data (`EvaluationOptions.training_data_changes`).

    Raises:
        ConfigError: if neither is known.
    """
    training_data = _training_data(card)
    if data is None:
        if training_data is None:
            raise ConfigError(f"{file} does not name its training data; name images with --data")
        return replace(training_data, **(changes or {}))
    if training_data is None:
        return data
    if is_same_data(data, training_data):
        given = {name: value for name in READING_FIELDS if (value := getattr(data, name)) is not None}
        return replace(training_data, root=data.root or training_data.root, **given)
    return replace(data, split_seed=training_data.split_seed)


def _training_data(card: ModelCard) -> DataConfig | None:
    trained = card.provenance.get("config")
    return from_json(RunConfig, trained).data if trained else None


def open_member_data(
    card: ModelCard,
    config: DataConfig,
    options: EvaluationOptions,
    on_progress: Callable[[str, int, int], None] | None,
) -> EvalDataset:
    """Open the images of an evaluation in the preprocessing of a network.

    Args:
        card: The network's card; it says which images were trained on.
        config: The data set.
        options: Split and cache.
        on_progress: Called with a stage, the number of images done and their total.

    Raises:
        ConfigError: as `open_eval_dataset`, such as for a held-out split of data that changed since training.
    """
    provenance = card.provenance
    crop = provenance.get("config", {}).get("recipe", {}).get("crop", "pad")
    return open_eval_dataset(
        config,
        card.preprocessing,
        options.split,
        trained_on=provenance.get("data", {}).get("fingerprint"),
        training_data=_training_data(card),
        keep_encoded=crop != "pad",
        on_progress=on_progress,
        cache_gib=options.cache_gib,
    )


def open_recalibration_images(
    card: ModelCard,
    evaluated: EvalDataset,
    file: Path,
    options: EvaluationOptions,
    on_progress: Callable[[str, int, int], None] | None,
) -> Split:
    """Open the images on which batch normalisation is recalibrated: those that the network was trained on.

    Of imported weights the training images are not known; then those of the training split that the evaluated data come
    with are opened, unless they are evaluated themselves.

    Raises:
        ConfigError: if there are no such images, or the training data changed since, so nothing is known of them.
    """
    needed = f"--recalibrate-bn needs the images that {file} was trained on"
    fingerprint, trained = card.provenance.get("data", {}).get("fingerprint"), _training_data(card)
    if trained is None or fingerprint is None:
        return _open_own_train_split(card, evaluated, f"{needed}, which are not known", options, on_progress)
    if is_same_data(evaluated.config, trained):  # read as for training, however they are evaluated
        config = replace(trained, name=evaluated.config.name, root=evaluated.config.root)
    else:
        config = replace(trained, **options.training_data_changes)
    try:
        dataset = open_member_data(card, config, replace(options, split="train"), on_progress)
    except ConfigError as error:
        raise ConfigError(f"{needed}: {error}") from error
    if dataset.fingerprint != fingerprint:
        raise ConfigError(
            f"{needed}, and {dataset.title} changed since, or is read otherwise; restore it, or leave out "
            "--recalibrate-bn"
        )
    return dataset.split


def _open_own_train_split(
    card: ModelCard,
    evaluated: EvalDataset,
    problem: str,
    options: EvaluationOptions,
    on_progress: Callable[[str, int, int], None] | None,
) -> Split:
    """Open the training split that the evaluated data come with.

    Raises:
        ConfigError: if they have none, or it is evaluated itself.
    """
    if "train" not in own_splits(evaluated.config, evaluated.listing):
        raise ConfigError(
            f"{problem}, and {evaluated.title} has no training split of its own; give data that have one, or leave out "
            "--recalibrate-bn"
        )
    if evaluated.split_name in ("train", "all"):
        raise ConfigError(
            f"{problem}, and those of {evaluated.title} are evaluated themselves; use --split val or test, or leave "
            "out --recalibrate-bn"
        )
    return open_member_data(card, evaluated.config, replace(options, split="train"), on_progress).split


def reorder_samples(dataset: EvalDataset, first: EvalDataset, file: Path, first_file: Path) -> Split:
    """Return the split of `dataset` with its samples in the order of `first`.

    Raises:
        ConfigError: if they are not the same samples.
    """
    names, first_names = dataset.split.names, first.split.names
    same_length = len(dataset.split) == len(first.split)
    if dataset.split_name != first.split_name or sorted(names) != sorted(first_names) or not same_length:
        raise ConfigError(
            f"{file} and {first_file} would be evaluated on different images of {dataset.title}; name a split of the "
            "data set itself, such as --split test"
        )
    if names == first_names:
        return dataset.split
    index_of = {name: index for index, name in enumerate(names)}
    order = torch.tensor([index_of[name] for name in first_names])
    return replace(dataset.split.subset(order), names=first_names)
