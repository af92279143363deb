"""`resnetlab.evaluate_multi_label`: metrics of a network on images with several labels."""

from pathlib import Path
from typing import Literal

from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.dataset import Split
from resnetlab.evaluation.evaluator import EnsembleMember, open_members
from resnetlab.evaluation.label_metrics import MultiLabelEvaluation, compute_label_metrics
from resnetlab.evaluation.multi_label import LabelPredictions, predict_labels
from resnetlab.evaluation.options import EvaluationOptions
from resnetlab.inference.engines.base import Backend
from resnetlab.serialization import check
from resnetlab.system.cache_folder import CACHE_GIB
from resnetlab.system.process_group import ProcessGroup


def evaluate_multi_label(
    model: Path | str,
    data: DataConfig | str | None = None,
    *,
    split: Literal["test", "val", "train", "all"] | None = None,
    allow_missing_classes: bool = False,
    on_bad_image: Literal["fail", "skip"] = "fail",
    device: str = "cpu",
    workers: int = 0,
    backend: Backend | Literal["auto"] | None = None,
    cache_gib: float = CACHE_GIB,
) -> MultiLabelEvaluation:
    """Evaluate a network for several labels an image on one crop of each image.

    `evaluate_multi_label("runs/scenes", "scenes").mean_average_precision_pct` is the mean average precision in %.

    Args:
        model: A model file, run directory or exported file of a network that was trained on several labels an image.
        data: A folder or table with a column `labels`; the training data of the network if not given.
        split: As for `evaluate`.
        allow_missing_classes: Accept data without some of the network's labels.
        on_bad_image: `fail` raises at an image that cannot be decoded; `skip` leaves it out.
        device: PyTorch device, such as `cpu` or `cuda`.
        workers: Threads that decode images; 0 decodes in the calling thread.
        backend: As for `evaluate`.
        cache_gib: Maximum size of the cache for remote shards, in GiB.

    Returns:
        Mean average precision, and precision, recall and F1 of each label at the threshold of the model card.

    Raises:
        ModelFileError: if a file is missing, damaged or not a network of this project.
        ConfigError: if the network or the data have one class an image, or as for `evaluate`.
        BadImageError: if an image cannot be decoded, unless `on_bad_image` is `skip`.
    """
    options = EvaluationOptions(
        split=split,
        allow_missing_classes=allow_missing_classes,
        on_bad_image=on_bad_image,
        device=device,
        workers=workers,
        backend=backend,
        cache_gib=cache_gib,
    )
    (member,) = open_members([Path(model)], DataConfig(data) if isinstance(data, str) else data, options)
    if not member.is_multi_label:
        raise ConfigError(f"{model} gives an image one class; use evaluate")
    return label_metrics(member, predict_member(member, options))


def check_multi_label_evaluation(options: EvaluationOptions, num_models: int) -> None:
    """Check that the options of an evaluation do not need one class an image.

    Raises:
        ConfigError: if they do.
    """
    check(num_models == 1, "several networks cannot be averaged for several labels an image; evaluate each alone")
    check(
        options.protocol == "one-crop",
        f"--protocol {options.protocol} is for one class an image; use one-crop, or none",
    )
    check(options.reject_below is None, "--reject-below is for one class an image; each label has a threshold instead")


def predict_member(
    member: EnsembleMember,
    options: EvaluationOptions,
    *,
    process_group: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
) -> LabelPredictions:
    """Return the probability of each label for all images of an opened network; the processes share the images."""
    split = Split(member.dataset.split.images, member.labels)
    return predict_labels(
        member.model, split, member.card.preprocessing, workers=options.workers, process_group=process_group
    )


def label_metrics(member: EnsembleMember, predictions: LabelPredictions) -> MultiLabelEvaluation:
    """Return the metrics of predictions at the thresholds of the network's card."""
    assert member.card.multi_label is not None  # `is_multi_label` was checked
    return compute_label_metrics(predictions, member.card.classes, member.card.multi_label.thresholds)
