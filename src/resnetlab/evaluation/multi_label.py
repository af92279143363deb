"""Images with several labels: probabilities of each label, and the score of a network on a split."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnetlab.config import ConfigError, Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.evaluation.logits import Network, one_crop_logits
from resnetlab.evaluation.protocols import SplitScore
from resnetlab.inference.prediction import NO_LABEL
from resnetlab.system.process_group import ProcessGroup


@dataclass(frozen=True, kw_only=True)
class LabelPredictions:
    """Labels and probabilities of images with several labels, one row for each image."""

    positions: np.ndarray
    """Index of the image in the split: int64, shape (num_samples,), ascending."""
    labels: np.ndarray
    """Whether the image has each label: bool, shape (num_samples, num_classes)."""
    probabilities: np.ndarray
    """Probability of each label, 0 to 1, the sigmoid of its logit: float64, shape (num_samples, num_classes)."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def loss(self) -> float:
        """Mean binary cross-entropy in nats, over images and labels."""
        chosen = np.where(self.labels, self.probabilities, 1 - self.probabilities)
        return float(-np.log(np.maximum(chosen, np.finfo(np.float64).tiny)).mean())


@dataclass(frozen=True)
class MultiLabelScore(SplitScore):
    """Error, loss and precision of a network on a split whose images have several labels.

    `num_wrong` counts the images with any wrong label at a probability of one half, `class_counts` the images of each
    label, `loss` is the binary cross-entropy.
    """

    mean_average_precision_pct: float | None = None
    """Mean over labels of the average precision; `None` if no image has a label."""
    chance_error_pct: float = 100.0
    """Error of giving every image the most frequent set of labels."""
    most_frequent: tuple[int, ...] = ()
    """That set."""

    @property
    def macro_error_pct(self) -> float | None:
        """`None`: an image with several labels belongs to no one class."""
        return None

    @property
    def selection_pct(self) -> float:
        """100 minus the mean average precision, which no threshold affects; the error where there is none."""
        precision = self.mean_average_precision_pct
        return self.error_pct if precision is None else 100 - precision

    def chance(self, classes: Sequence[str]) -> dict[str, Any] | None:
        """Return the error of giving every image the most frequent set of labels."""
        from resnetlab.evaluation.error_rate import error_rate  # loads SciPy, which a run needs at its end only

        interval = error_rate(self.num_wrong, self.num_samples).interval_95_pct
        return {
            "error_pct": self.chance_error_pct,
            "class": ", ".join(classes[label] for label in self.most_frequent) or NO_LABEL,
            "better_than_chance": interval[1] < self.chance_error_pct,
        }


def score_multi_label_split(
    model: nn.Module,
    split: Split,
    preprocessing: Preprocessing,
    *,
    workers: int = 0,
    process_group: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
) -> MultiLabelScore:
    """Evaluate a network on a split whose images have several labels, as `score_split` does.

    Raises:
        ConfigError: if no image of the split can be decoded.
    """
    predictions = predict_labels(model, split, preprocessing, workers=workers, process_group=process_group)
    wrong = ((predictions.probabilities > 0.5) != predictions.labels).any(1)
    level, most_frequent = constant_error_pct(predictions.labels)
    return MultiLabelScore(
        len(predictions),
        int(wrong.sum()),
        predictions.loss,
        class_counts=tuple(predictions.labels.sum(0).tolist()),
        mean_average_precision_pct=mean_average_precision_pct(predictions),
        chance_error_pct=level,
        most_frequent=most_frequent,
    )


def predict_labels(
    model: Network,
    split: Split,
    preprocessing: Preprocessing,
    *,
    workers: int = 0,
    process_group: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
) -> LabelPredictions:
    """Return the probability of each label for one crop of each image; the processes share the images.

    Raises:
        ConfigError: if no image of the split can be decoded.
    """
    samples = torch.arange(len(split))[process_group.rank :: process_group.size]
    part = split if process_group.size == 1 else split.subset(samples)
    own = _collect(one_crop_logits(model, part, preprocessing, workers=workers), samples.numpy())
    parts = [part for part in process_group.all_gather(own) if len(part)]
    if not parts:
        raise ConfigError("no image of the split can be decoded; list the errors with: resnetlab data check PATH")
    merged = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS}
    order = np.argsort(merged["positions"], kind="stable")
    return LabelPredictions(**{name: values[order] for name, values in merged.items()})


_FIELDS = ("positions", "labels", "probabilities")


def _collect(batches: Iterable[tuple[Tensor, Tensor, Tensor]], samples: np.ndarray) -> LabelPredictions:
    rows = [(positions.numpy(), labels.numpy(), logits.sigmoid().numpy()) for positions, labels, logits in batches]
    empty = np.zeros(0, np.int64), np.zeros((0, 0), bool), np.zeros((0, 0))
    positions, labels, probabilities = (np.concatenate(column) for column in zip(*rows, strict=True)) if rows else empty
    return LabelPredictions(positions=samples[positions], labels=labels, probabilities=probabilities)


def average_precisions(predictions: LabelPredictions) -> list[float | None]:
    """Return the average precision of each label, 0 to 1: the area below its precision over its recall.

    It is `None` for a label that no image has. A network whose output is not finite ranks those images last.
    """
    from sklearn.metrics import average_precision_score

    probabilities = np.nan_to_num(predictions.probabilities, nan=-1.0)
    return [
        float(average_precision_score(truth, scores)) if truth.any() else None
        for truth, scores in zip(predictions.labels.T, probabilities.T, strict=True)
    ]


def mean_average_precision_pct(predictions: LabelPredictions) -> float | None:
    """Return the mean of the average precisions of the labels that some image has, in %; `None` if there is none."""
    values = [value for value in average_precisions(predictions) if value is not None]
    return 100 * float(np.mean(values)) if values else None


def constant_error_pct(labels: np.ndarray) -> tuple[float, tuple[int, ...]]:
    """Return the error, in %, of giving every image the most frequent set of labels, and that set.

    Args:
        labels: bool (num_samples, num_classes), at least one row.
    """
    sets, counts = np.unique(labels, axis=0, return_counts=True)
    most = int(counts.argmax())
    return float(100 * (1 - counts[most] / len(labels))), tuple(np.flatnonzero(sets[most]).tolist())
