"""Networks in files, and images → every number of an evaluation, in one call."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnetlab.config import DataConfig
from resnetlab.evaluation import metrics
from resnetlab.evaluation.evaluator import EvaluationOptions, evaluate_members, open_members
from resnetlab.evaluation.metrics import Evaluation
from resnetlab.evaluation.predictions import merge_predictions


def evaluate(
    models: Path | str | Sequence[Path | str], data: DataConfig | str | None = None, **terms: Any
) -> Evaluation:
    """Judge a model file or an exported one, or several whose probabilities are averaged, on images with labels.

    `evaluate("runs/cat/model.safetensors", "photos", protocol="ten-crop").top1.pct` is the error in %.

    Args:
        models: Model files, run directories or exported files.
        data: A data set with a name, or a path; what the (first) network was trained on if not given.
        terms: Fields of `examination.Terms`: protocol, split, sides, recalibrate_bn, device, backend and others.

    Raises:
        ConfigError: where a file is no model file, the data cannot be opened, or classes or channels differ.
    """
    files = [Path(models)] if isinstance(models, Path | str) else [Path(model) for model in models]
    agreed = EvaluationOptions(**terms)
    if len(files) > 1 and "protocol" not in terms:
        agreed = replace(agreed, protocol="ensemble")
    members = open_members(files, DataConfig(data) if isinstance(data, str) else data, agreed, None)
    return metrics.compute_metrics(merge_predictions([evaluate_members(members, agreed)]), members[0].card.classes)
