"""Opening of networks and their evaluation data, and evaluation of one network or an ensemble."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.dataset import Split
from resnetlab.data.eval_dataset import EvalDataset, original_images
from resnetlab.evaluation.bn_recalibration import recalibrate_bn
from resnetlab.evaluation.class_matching import check_channels, match_classes
from resnetlab.evaluation.crops import check_ten_crops, multi_scale_sides, ten_crop_side
from resnetlab.evaluation.member_data import (
    open_member_data,
    open_recalibration_images,
    reorder_samples,
    resolve_data_config,
)
from resnetlab.evaluation.options import EvaluationOptions, computes_on_cpu
from resnetlab.evaluation.predictions import Predictions
from resnetlab.evaluation.protocols import (
    LogProbBatches,
    collect_predictions,
    ensemble,
    multi_scale,
    one_crop,
    ten_crop,
)
from resnetlab.evaluation.self_check.quick_check import contradiction
from resnetlab.inference.backend_selection import engine_name
from resnetlab.inference.engines.base import Engine
from resnetlab.inference.formats.exported_file import is_exported_file
from resnetlab.inference.open_engine import open_engine
from resnetlab.inference.rejection import check_reject_below
from resnetlab.models.model_file import ModelCard, load_model
from resnetlab.models.resnet import ResNet
from resnetlab.system.process_group import ProcessGroup


@dataclass(frozen=True, kw_only=True)
class EnsembleMember:
    """One of the evaluated networks, with the data in its preprocessing."""

    file: Path
    model: ResNet | Engine
    card: ModelCard
    dataset: EvalDataset
    labels: Tensor
    """Class of each sample, numbered as in the first network: int64, shape (num_samples,); or the labels that it has,
    bool, shape (num_samples, num_classes)."""
    class_order: Tensor
    """This network's index for each class of the first network: int64, shape (num_classes,)."""
    num_recalibration_images: int = 0
    """Training images used to recalibrate batch normalisation, those of the evaluated data if it is not known on which
    images the network was trained; 0 without recalibration."""
    contradiction: str | None = None
    """A line on imported weights whose statistics contradict the file on these images; `None` without one."""

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.card.multi_label is not None

    @property
    def computed_by(self) -> str:
        """Runtime and precision, such as `torch fp32`."""
        return "torch fp32" if isinstance(self.model, ResNet) else engine_name(self.model)

    def sides(self, options: EvaluationOptions) -> tuple[int, ...]:
        """Return the shorter sides, in pixels, to which the protocol resizes images."""
        if options.protocol == "ten-crop":
            return options.sides or (ten_crop_side(self.card.preprocessing),)
        return options.sides or multi_scale_sides(self.card.preprocessing)

    def log_probs(self, options: EvaluationOptions, samples: Tensor) -> LogProbBatches:
        """Yield log-probabilities; positions index `samples`, and classes are in the first network's order."""
        preprocessing = self.card.preprocessing
        common: dict[str, Any] = {"workers": options.workers, "temperature": self.card.temperature}
        if options.protocol in ("one-crop", "ensemble"):
            split = Split(self.dataset.split.images, self.labels).subset(samples).to(torch.device(options.device))
            batches = one_crop(self.model, split, preprocessing, **common)
        else:
            originals = Split(original_images(self.dataset), self.labels).with_channels(self.card.model.in_channels)
            originals, sides = originals.subset(samples), self.sides(options)
            if options.protocol == "ten-crop":
                batches = ten_crop(self.model, originals, preprocessing, side=sides[0], **common)
            else:
                assert isinstance(self.model, ResNet)  # `open_members` raises for engines
                batches = multi_scale(self.model, originals, preprocessing, sides=sides, **common)
        for positions, batch_labels, log_probs in batches:
            yield positions, batch_labels, log_probs[:, self.class_order]


def open_members(
    files: Sequence[Path],
    data: DataConfig | None,
    options: EvaluationOptions,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
    log: Callable[[str], None] | None = None,
    process_group: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
) -> list[EnsembleMember]:
    """Load networks and open the same images for each.

    Args:
        files: Model files or exported files.
        data: The data set; the training data of each network if not given.
        options: Protocol, data and runtime.
        on_progress: Called with a stage, the number of images done and their total.
        log: Called with the result of the backend selection if `options.backend` is `auto`.
        process_group: Processes that evaluate together; the first one selects the backend for all.

    Raises:
        ConfigError: if a file is not a network of this project or does not support the options, the data cannot be
            opened, classes or channels differ, or the networks held out different images.
    """
    members: list[EnsembleMember] = []
    for file in files:
        model, card = _load_network(file, options, log, process_group)
        check_network(file, card, options)
        first = members[0] if members else None
        members.append(_open_member(file, model, card, first, data=data, options=options, on_progress=on_progress))
    return members


def _open_member(
    file: Path,
    model: ResNet | Engine,
    card: ModelCard,
    first: EnsembleMember | None,
    *,
    data: DataConfig | None,
    options: EvaluationOptions,
    on_progress: Callable[[str, int, int], None] | None,
) -> EnsembleMember:
    """Open the data for a network, in the sample and class order of the first network; recalibrate if requested."""
    config = resolve_data_config(card, data, file, options.training_data_changes)
    dataset = open_member_data(card, replace(config, on_bad_image=options.on_bad_image), options, on_progress)
    dataset = replace(dataset, split=dataset.split.with_channels(card.model.in_channels))
    check_channels(card, dataset.split.channels, dataset.title)
    _check_same_kind(card, dataset, file)
    class_indices = match_classes(
        card.classes,
        dataset.classes,
        model_name=file.name,
        data_name=dataset.title,
        allow_missing=options.allow_missing_classes,
    )
    if dataset.split.is_multi_label:
        labels = torch.zeros(len(dataset.split), len(card.classes), dtype=torch.bool)
        labels[:, class_indices] = dataset.split.labels
        class_order = torch.arange(len(card.classes))
    elif first is None:
        labels, class_order = class_indices[dataset.split.labels], torch.arange(len(card.classes))
    else:
        dataset = replace(dataset, split=reorder_samples(dataset, first.dataset, file, first.file))
        labels = first.labels
        class_order = match_classes(
            card.classes,
            first.card.classes,
            model_name=file.name,
            data_name=first.file.name,
            hint="give networks of the same classes",
        )
    disagreement = None
    if isinstance(model, ResNet) and options.on_bad_image == "fail":  # else the sample may have no image
        disagreement = contradiction(model, card, dataset.split, workers=options.workers)
    member = EnsembleMember(
        file=file,
        model=model,
        card=card,
        dataset=dataset,
        labels=labels,
        class_order=class_order,
        contradiction=disagreement,
    )
    return _recalibrate(member, options, on_progress) if options.recalibrate_bn else member


def _recalibrate(
    member: EnsembleMember, options: EvaluationOptions, on_progress: Callable[[str, int, int], None] | None
) -> EnsembleMember:
    """Recompute the statistics of batch normalisation in place, if the network is a module of PyTorch."""
    if not isinstance(member.model, ResNet):
        return member
    train = open_recalibration_images(member.card, member.dataset, member.file, options, on_progress)
    train = train.with_channels(member.card.model.in_channels).to(torch.device(options.device))
    count = recalibrate_bn(member.model, train, member.card.preprocessing, workers=options.workers)
    return replace(member, num_recalibration_images=count)


def check_network(file: Path, card: ModelCard, options: EvaluationOptions) -> None:
    """Raise unless runtime, protocol and rejection fit a network, which needs no images.

    Raises:
        ConfigError: if they do not.
    """
    _check_runtime(file, options)
    if options.protocol == "ten-crop":
        side = options.sides[0] if options.sides else ten_crop_side(card.preprocessing)
        check_ten_crops(card.preprocessing, side)
    if card.multi_label is None:
        check_reject_below(options.reject_below, len(card.classes))


def _check_runtime(file: Path, options: EvaluationOptions) -> None:
    """Raise if a runtime that computes a fixed graph is to change its input, its layers or its device."""
    if options.backend in (None, "torch") and not is_exported_file(file):
        return
    source = "an exported file" if is_exported_file(file) else f"--backend {options.backend}"
    if options.protocol == "multi-scale":
        raise ConfigError(f"multi-scale needs a model file and PyTorch: {source} has a fixed image size")
    if options.recalibrate_bn:
        raise ConfigError(f"--recalibrate-bn needs a model file and PyTorch: {source} has no batch normalisation left")
    if options.device != "cpu" and computes_on_cpu(file):
        raise ConfigError(
            f"{file} computes on the CPU, not on {options.device}; leave out --device, or name a model file"
        )


def _check_same_kind(card: ModelCard, dataset: EvalDataset, file: Path) -> None:
    """Raise if a network for one class an image gets images with several labels, or the other way round."""
    if dataset.split.is_multi_label and card.multi_label is None:
        raise ConfigError(
            f"{file} gives an image one class, and {dataset.title} has a column labels, several an image; name the "
            "column label if each image has one"
        )
    if card.multi_label is not None and not dataset.split.is_multi_label:
        raise ConfigError(
            f"{file} gives an image several labels, and {dataset.title} has one class an image; give a table with the "
            "columns file and labels"
        )


def evaluate_members(
    members: Sequence[EnsembleMember],
    options: EvaluationOptions,
    *,
    rank: int = 0,
    world_size: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Evaluate every `world_size`-th sample, starting at `rank`; all ranks together evaluate each sample once.

    `on_progress` is called with the number of samples in each batch, once for each network.
    """
    samples = torch.arange(len(members[0].labels))[rank::world_size]

    def log_probs(member: EnsembleMember) -> LogProbBatches:
        for positions, labels, batch in member.log_probs(options, samples):
            yield positions, labels, batch
            if on_progress:
                on_progress(len(positions))

    batches = ensemble([lambda member=member: log_probs(member) for member in members], len(samples))
    predictions = collect_predictions(batches, len(samples))
    return replace(predictions, positions=samples.numpy()[predictions.positions])


def load_images(dataset: EvalDataset, positions: Sequence[int]) -> list[np.ndarray]:
    """Return images of a split, cropped as for the network: uint8 (height, width, channels)."""
    images = dataset.split.subset(torch.tensor(positions, dtype=torch.int64)).images
    pixels = images if isinstance(images, Tensor) else images.decode_eval_views(torch.arange(len(images)))[0]
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


def _load_network(
    file: Path, options: EvaluationOptions, log: Callable[[str], None] | None, process_group: ProcessGroup
) -> tuple[ResNet | Engine, ModelCard]:
    """Load a model file as the module that training evaluated, or an engine if another runtime computes it."""
    if options.backend in (None, "torch") and not is_exported_file(file):
        model, card = load_model(file)
        return model.to(torch.device(options.device)), card
    _check_runtime(file, options)
    cores = torch.get_num_threads()  # below the number of cores if torchrun's processes share them
    return open_engine(
        file, backend=options.backend, cores=cores, device=options.device, log=log, process_group=process_group
    )
