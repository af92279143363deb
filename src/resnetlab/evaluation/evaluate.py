"""`resnetlab.evaluate`: metrics of model files on images with labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from resnetlab.config import DataConfig
from resnetlab.evaluation.class_matching import check_one_class
from resnetlab.evaluation.evaluator import evaluate_members, open_members
from resnetlab.evaluation.metrics import Evaluation, compute_metrics
from resnetlab.evaluation.options import EvaluationOptions, Protocol
from resnetlab.evaluation.predictions import merge_predictions
from resnetlab.inference.engines.base import Backend
from resnetlab.system.cache_folder import CACHE_GIB


def evaluate(
    models: Path | str | Sequence[Path | str],
    data: DataConfig | str | None = None,
    *,
    protocol: Protocol | None = None,
    split: Literal["test", "val", "train", "all"] | None = None,
    sides: Sequence[int] = (),
    recalibrate_bn: bool = False,
    allow_missing_classes: bool = False,
    on_bad_image: Literal["fail", "skip"] = "fail",
    device: str = "cpu",
    workers: int = 0,
    backend: Backend | Literal["auto"] | None = None,
    cache_gib: float = CACHE_GIB,
    reject_below: float | None = None,
) -> Evaluation:
    """Evaluate a model file or an exported file, or the mean probabilities of several, on images with labels.

    `evaluate("runs/cat/model.safetensors", "photos", protocol="ten-crop").top1.pct` is the top-1 error in %.

    Args:
        models: Model files, run directories or exported files.
        data: Name of a data set, or a path; the training data of each network if not given.
        protocol: `one-crop` (section 4.2 of the paper), `ten-crop` (Table 3), `multi-scale` (Table 4) or `ensemble`
            (Table 5); if not given, `one-crop` for one model and `ensemble` for several.
        split: `test`, `val`, `train` or `all`. If not given, the test split of the data set, or else its val split. If
            it has neither: the test images that training held out of this data set, or else all images.
        sides: Shorter sides in pixels: one for `ten-crop`, several for `multi-scale`; if empty, the paper's sides,
            scaled to the image size of the network.
        recalibrate_bn: Recompute the batch-normalisation statistics on training images.
        allow_missing_classes: Accept data without some of the network's classes.
        on_bad_image: `fail` raises at an image that cannot be decoded; `skip` leaves it out.
        device: PyTorch device, such as `cpu` or `cuda`.
        workers: Threads that decode images; 0 decodes in the calling thread.
        backend: `torch`, `onnxruntime`, `openvino`, or `auto` for the fastest; if not given, PyTorch for a model file,
            and the format's own runtime for an exported file.
        cache_gib: Maximum size of the cache for remote shards, in GiB.
        reject_below: Confidence below which an image counts as rejected; `Evaluation.rejection` then has coverage and
            error. It must be above 1 / number of classes and below 1.

    Returns:
        Errors with confidence intervals, confusions, calibration, coverage and the most confident mistakes.
        Probabilities are those at the temperature of each card.

    Raises:
        ModelFileError: if a file is missing, damaged or not a network of this project.
        ConfigError: if options do not fit together, the data cannot be opened, or classes or channels differ.
        BadImageError: if an image cannot be decoded, unless `on_bad_image` is `skip`.
    """
    files = [Path(models)] if isinstance(models, Path | str) else [Path(model) for model in models]
    options = EvaluationOptions(
        protocol=protocol or ("ensemble" if len(files) > 1 else "one-crop"),
        split=split,
        sides=tuple(sides),
        recalibrate_bn=recalibrate_bn,
        allow_missing_classes=allow_missing_classes,
        on_bad_image=on_bad_image,
        device=device,
        workers=workers,
        backend=backend,
        cache_gib=cache_gib,
        reject_below=reject_below,
    )
    members = open_members(files, DataConfig(data) if isinstance(data, str) else data, options)
    check_one_class(multi_label=members[0].is_multi_label, name=members[0].dataset.title, use="evaluate")
    predictions = merge_predictions([evaluate_members(members, options)])
    held_out = not any(member.dataset.seen_in_training for member in members)
    return compute_metrics(predictions, members[0].card.classes, reject_below=reject_below, held_out=held_out)
