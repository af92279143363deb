"""The network in 8-bit integers: ranges seen on training images, and what that costs on validation images.

Weights are int8 with a scale for each output channel, activations uint8 with a scale and a zero for each tensor. Both
are written as pairs of QuantizeLinear and DequantizeLinear, which each runtime fuses in its own way: of a convolution,
the addition of the shortcut and the ReLU after it they make one or two integer kernels. The average, and the logits
that the head puts out, stay float: classes that are close would be tied in 8 bits.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from resnetlab.config import DataConfig
from resnetlab.data.dataset import Split
from resnetlab.data.images.scan import Progress, stage_progress
from resnetlab.data.loader import eval_batches_with_positions
from resnetlab.data.open_dataset import open_data
from resnetlab.data.registry import dataset_title
from resnetlab.data.sampler import sample_order
from resnetlab.evaluation import metrics
from resnetlab.evaluation.class_matching import check_channels, match_classes
from resnetlab.evaluation.evaluator import data_config
from resnetlab.evaluation.predictions import Predictions, merge_predictions
from resnetlab.evaluation.protocols import Scores, collect_predictions, one_crop
from resnetlab.inference import optional_packages
from resnetlab.inference.engines.base import Engine
from resnetlab.inference.engines.onnx_runtime import OnnxEngine
from resnetlab.inference.formats.metadata import INPUT
from resnetlab.models.model_card import ModelCard
from resnetlab.models.resnet import ResNet
from resnetlab.system.cores import usable_cores

if TYPE_CHECKING:
    from onnx import ModelProto

CALIBRATION_IMAGES = 512
"""Training images whose activations give the ranges; from 64 on their number made no difference (docs/log.md)."""
KINDS = ("Conv", "Gemm", "Relu", "Add", "MaxPool", "Pad", "Slice")
"""Operations that compute in integers. Without Relu here it would stay between a convolution and its rounding, and
neither runtime could fuse them; Pad and Slice are the shortcuts of option A."""
METHOD = "smallest and largest value; weights int8 per channel, activations uint8 per tensor, logits float"
TOGETHER = 16
"""Images that go through the network together while it is calibrated; all their activations are kept at a time."""

Told = Callable[[int, int], None]
"""How many images of a stage are done, and how many there are."""


class QuantizationLossError(RuntimeError):
    """A network that errs more in 8 bits than is allowed; the message has both errors."""


def quantize(
    graph: "ModelProto",
    card: ModelCard,
    data: DataConfig,
    *,
    allowed_loss_pct: float,
    model: ResNet,
    tell: Progress | None = None,
) -> tuple["ModelProto", dict[str, Any]]:
    """Return the ONNX graph of a network with 8-bit arithmetic, and what that was calibrated on and costs.

    Ranges come from training images, errors from validation images, as `data` splits them; test images are not looked
    at. The images may lack some of the network's classes.

    Args:
        graph: The network with its normalisation, uint8 `images` in, float32 `logits` out; it stays as it is.
        card: The network's own.
        data: Images with labels.
        allowed_loss_pct: How much larger the top-1 error may become, in points.
        model: The network that the graph was made of, for the error before.
        tell: Hears how far each stage is.

    Returns:
        The graph, and for `Passport.int8`: `data`, `calibration_images`, `method`, `validation_images`,
        `error_before_pct`, `error_after_pct`, `allowed_loss_pct`, `top1_agreement_pct`.

    Raises:
        ConfigError: where the data cannot be opened, or have other classes or channels; or a package is missing.
        QuantisationLossError: where the error becomes larger than is allowed.
    """
    heard = tell or (lambda stage_progress, done, total: None)
    train, val, title = _opened(card, data, heard)
    made = _integers(graph, _some(train, CALIBRATION_IMAGES, stage_progress(heard, "calibrating")))
    engine = OnnxEngine(made.SerializeToString, "int8", cores=usable_cores(), callers=1)
    before = _judged(model, val, card, stage_progress(heard, "judging the network"))
    after = _judged(engine, val, card, stage_progress(heard, "judging int8"))
    return made, {
        "data": title,
        "calibration_images": min(CALIBRATION_IMAGES, len(train)),
        "method": METHOD,
        "allowed_loss_pct": allowed_loss_pct,
        **_compared(before, after, card, title, allowed_loss_pct),
    }


def _opened(card: ModelCard, data: DataConfig, tell: Progress) -> tuple[Split, Split, str]:
    """Return training and validation images as the network sees them and numbers classes, and what they are called."""
    name = card.model.name
    config = data_config(card, data, Path(name))
    crop = card.provenance.get("config", {}).get("recipe", {}).get("crop", "pad")
    opened = open_data(config, keep_encoded=crop != "pad", seen_as=card.preprocessing, on_progress=tell)
    title = dataset_title(config)
    numbers = match_classes(card.classes, opened.classes, name, title, allow_missing=True)
    seen = []
    for split in (opened.train, opened.val):
        shown = split.shown_in(card.model.in_channels)
        check_channels(card, shown.channels, title)
        seen.append(Split(shown.images, numbers[shown.labels], shown.names))
    return seen[0], seen[1], title


def _some(train: Split, count: int, tell: Told) -> Iterator[np.ndarray]:
    """Yield training images drawn over all of them, always the same: uint8 (batch, height, width, channels)."""
    chosen = sample_order(0, 0, len(train))[:count]
    images = train.images[chosen] if isinstance(train.images, Tensor) else train.images.subset(chosen)
    batches = eval_batches_with_positions(Split(images, train.labels[chosen]), None, TOGETHER, workers=_workers(train))
    with closing(batches):
        for positions, pixels, _ in batches:
            yield np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
            tell(int(positions[-1]) + 1, len(chosen))


def _judged(network: ResNet | Engine, val: Split, card: ModelCard, tell: Told) -> Predictions:
    """Judge a network on validation images, as `resnetlab evaluate` does."""

    def watched() -> Scores:
        for positions, labels, logs in one_crop(network, val, card.preprocessing, workers=_workers(val)):
            yield positions, labels, logs
            tell(int(positions[-1]) + 1, len(val))

    return merge_predictions([collect_predictions(watched(), len(val))])


def _workers(split: Split) -> int:
    """Return how many threads decode the images of a split."""
    return 0 if isinstance(split.images, Tensor) else usable_cores()


def _integers(graph: "ModelProto", views: Iterator[np.ndarray]) -> "ModelProto":
    """Return a graph in 8 bits, its ranges those of some images."""
    onnx = optional_packages.onnx()
    optional_packages.onnxruntime()
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray]:
            pixels = next(views, None)
            return None if pixels is None else {INPUT: pixels}  # pyright: ignore[reportReturnType]  # as they do

    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, after = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(graph, before)  # of a graph in memory they would take the weights away
        quantize_static(
            before,
            after,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(KINDS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        made = onnx.load(after)
    del made.metadata_props[:]  # the tool's own
    return made


def _compared(
    before: Predictions, after: Predictions, card: ModelCard, title: str, allowed_pct: float
) -> dict[str, Any]:
    """Return errors and agreement.

    Raises:
        QuantisationLossError: where more is lost than allowed.
    """
    errors = [metrics.compute_metrics(one, card.classes).top1 for one in (before, after)]
    lost = 100 * (errors[1].num_wrong - errors[0].num_wrong) / len(before)
    if lost > allowed_pct:
        raise QuantizationLossError(
            f"{card.model.name} in int8: top-1 error {errors[1].pct:.2f} %, and {errors[0].pct:.2f} % before, on "
            f"{len(before):,} validation images of {title}; {lost:.2f} points are lost and {allowed_pct:g} allowed: "
            "calibrate on more images, and such as it will see (--calibrate), or allow it (--allow-loss)"
        )
    return {
        "validation_images": len(before),
        "error_before_pct": errors[0].pct,
        "error_after_pct": errors[1].pct,
        "top1_agreement_pct": 100 * float((before.top[:, 0] == after.top[:, 0]).mean()),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what ONNX Runtime's quantiser tells: advice that does not hold here.

    Without a handler its first warning would give the root logger one for good.
    """
    root, handler, disabled = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.removeHandler(handler)
