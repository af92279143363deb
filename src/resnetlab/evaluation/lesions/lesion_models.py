"""`resnetlab.lesion`: errors of model files whose blocks are removed or reordered."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.dataset import Split
from resnetlab.data.loader import sample_images
from resnetlab.evaluation.class_matching import check_one_class
from resnetlab.evaluation.evaluator import EnsembleMember, open_members
from resnetlab.evaluation.lesions.lesion import LesionOptions, LesionResult, Progress, measure_lesions
from resnetlab.evaluation.options import EvaluationOptions
from resnetlab.models.resnet import ResNet

MAX_IMAGES = 1000
"""Images by default: the standard error of an error is below 1.6 points."""


@dataclass(frozen=True)
class EvaluatedImages:
    """The images on which networks are compared: the same ones for each."""

    title: str
    """The data set."""
    split: str
    """`test`, `val`, `train` or `all`."""
    num_available: int
    """Images in the split."""


def lesion(
    models: Path | str | Sequence[Path | str],
    data: DataConfig | str | None = None,
    *,
    split: Literal["test", "val", "train", "all"] | None = None,
    max_images: int = MAX_IMAGES,
    most_removed: int = 10,
    most_swaps: int = 10,
    repeats: int = 5,
    paths: int = 64,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[LesionResult, ...]:
    """Measure what networks do without some of their blocks: each in turn, several at random, and in another order.

    A residual network changes little, a plain one fails. `lesion(["runs/plain", "runs/residual"])[1].without_block`
    lists the error without each block of the second.

    Args:
        models: Model files, run directories or names of published weights.
        data: Name of a data set, or a path; the training data of each network if not given.
        split: Images to evaluate on, selected as in `evaluate` if not given.
        max_images: Most images; if the split has more, the same ones are drawn for each network.
        most_removed: Largest number of blocks that are removed together.
        most_swaps: Largest number of swaps of two blocks.
        repeats: Random choices for each number of removed blocks and of swaps.
        paths: Random paths of each length whose gradient is measured; 0 for none.
        seed: Selects blocks, swaps and paths.
        device: PyTorch device, such as `cpu` or `cuda`.

    Returns:
        One result for each network, in order.

    Paper: Veit, Wilber and Belongie (2016).

    Raises:
        ModelFileError: if a file is missing, damaged or not a network of this project.
        ConfigError: if options do not fit together, or the data do not fit the networks.
    """
    options = LesionOptions(most_removed, most_swaps, repeats, paths, seed)
    files = [Path(models)] if isinstance(models, Path | str) else [Path(model) for model in models]
    config = DataConfig(data) if isinstance(data, str) else data
    evaluation = EvaluationOptions(split=split, device=device, backend="torch")
    members, _ = open_networks(files, config, evaluation)
    return lesion_members(members, options, max_images=max_images)


def open_networks(
    files: Sequence[Path], data: DataConfig | None, options: EvaluationOptions
) -> tuple[list[EnsembleMember], EvaluatedImages]:
    """Load networks as PyTorch modules, with the same images for each; the data may lack some of their classes.

    Raises:
        ConfigError: as `open_members`, and if there is no file or an exported one, which has no blocks.
    """
    if not files:
        raise ConfigError("name at least one model file or run directory")
    members = open_members(files, data, replace(options, allow_missing_classes=True))
    for member in members:
        if not isinstance(member.model, ResNet):
            raise ConfigError(f"{member.file} is no model file: an exported network has no blocks to change")
    dataset = members[0].dataset
    check_one_class(multi_label=members[0].is_multi_label, name=dataset.title, use="measuring a changed network")
    return members, EvaluatedImages(dataset.title, dataset.split_name, len(dataset.split))


def member_images(member: EnsembleMember, max_images: int) -> tuple[Tensor, Tensor]:
    """Return normalised images and labels of a network: all of the split, or a fixed draw of `max_images`.

    Returns:
        float32 (batch, channels, height, width) and int64 (batch,), numbered as the network's classes, on its device.

    Raises:
        ConfigError: if `max_images` is below 1.
    """
    if max_images < 1:
        raise ConfigError(f"images must be at least 1, not {max_images}")
    assert isinstance(member.model, ResNet)
    labels = member.class_order[member.labels.cpu()]
    split = Split(member.dataset.split.images, labels)
    images, labels = sample_images(split, member.card.preprocessing, max_images)
    device = member.model.fc.weight.device
    return images.to(device), labels.to(device)


def lesion_members(
    members: Sequence[EnsembleMember],
    options: LesionOptions,
    *,
    max_images: int = MAX_IMAGES,
    on_progress: Progress | None = None,
) -> tuple[LesionResult, ...]:
    """Measure opened networks one after the other; `on_progress` gets stages that begin with the network's name.

    Raises:
        ConfigError: if `max_images` is below 1.
    """
    results = []
    for member in members:
        assert isinstance(member.model, ResNet)
        images, labels = member_images(member, max_images)

        def report(stage: str, done: int, total: int, name: str = member.card.model.name) -> None:
            if on_progress:
                on_progress(f"{name}: {stage}", done, total)

        results.append(measure_lesions(member.model, images, labels, options=options, on_progress=report))
    return tuple(results)
