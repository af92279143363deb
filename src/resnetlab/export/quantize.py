"""Quantisation of an ONNX graph to int8: ranges from training images, loss of accuracy on validation images.

Weights are int8 with a scale for each output channel; activations are uint8 with a scale and a zero point for each
tensor. Both are pairs of QuantizeLinear and DequantizeLinear nodes. Each runtime fuses a convolution, the addition of
the shortcut and the ReLU after it into one or two integer kernels. Average pooling and the output logits stay float:
8 bits would create ties between similar classes.
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
from resnetlab.evaluation.class_matching import check_channels, check_one_class, match_classes
from resnetlab.evaluation.member_data import resolve_data_config
from resnetlab.evaluation.metrics import compute_metrics
from resnetlab.evaluation.predictions import Predictions, merge_predictions
from resnetlab.evaluation.protocols import LogProbBatches, collect_predictions, one_crop
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
"""Training images that determine the ranges; from 64 images on, the number made no difference (docs/log.md)."""
QUANTIZED_OPS = ("Conv", "Gemm", "Relu", "Add", "MaxPool", "Pad", "Slice")
"""Operators computed in integers. Without Relu, it would stay between a convolution and its quantisation, and the
runtimes could not fuse them. Pad and Slice implement shortcut option A."""
METHOD = "smallest and largest value; weights int8 per channel, activations uint8 per tensor, logits float"
CALIBRATION_BATCH_SIZE = 16
"""Images in a forward pass during calibration; all their activations are in memory at the same time."""

StageProgress = Callable[[int, int], None]
"""Called with the number of images done and the total of one stage."""


class QuantizationLossError(RuntimeError):
    """Quantisation increased the error by more than allowed; the message has both errors."""


def quantize(
    graph: "ModelProto",
    card: ModelCard,
    data: DataConfig,
    *,
    allowed_loss_pct: float,
    model: ResNet,
    on_progress: Progress | None = None,
) -> tuple["ModelProto", dict[str, Any]]:
    """Return the int8 graph of a network, and metadata about its calibration and accuracy.

    Ranges are computed on training images and errors on validation images, as `data` splits them; test images are not
    used. The data may lack some of the network's classes.

    Args:
        graph: The network with its normalisation, from uint8 `images` to float32 `logits`; not modified.
        card: The network's model card.
        data: Images with labels.
        allowed_loss_pct: Allowed increase of the top-1 error, in percentage points.
        model: The source network of the graph, for the fp32 error.
        on_progress: Called with a stage, the number of images done and their total.

    Returns:
        The int8 graph, and for `ExportMetadata.int8`: `data`, `calibration_images`, `method`, `validation_images`,
        `error_before_pct`, `error_after_pct`, `allowed_loss_pct`, `top1_agreement_pct`.

    Raises:
        ConfigError: if the data cannot be opened, have other classes or channels, or a package is missing.
        QuantizationLossError: if the error increases by more than is allowed.
    """
    on_progress = on_progress or (lambda stage, done, total: None)
    train, val, title = _open_splits(card, data, on_progress)
    batches = _calibration_batches(train, CALIBRATION_IMAGES, stage_progress(on_progress, "calibrating"))
    int8_graph = _quantize_graph(graph, batches)
    engine = OnnxEngine(int8_graph.SerializeToString, "int8", cores=usable_cores(), callers=1)
    before = _evaluate(model, val, card, stage_progress(on_progress, "evaluating fp32"))
    after = _evaluate(engine, val, card, stage_progress(on_progress, "evaluating int8"))
    return int8_graph, {
        "data": title,
        "calibration_images": min(CALIBRATION_IMAGES, len(train)),
        "method": METHOD,
        "allowed_loss_pct": allowed_loss_pct,
        **_compare_errors(before, after, card, title=title, allowed_pct=allowed_loss_pct),
    }


def _open_splits(card: ModelCard, data: DataConfig, on_progress: Progress) -> tuple[Split, Split, str]:
    """Return training and validation images with the network's channels and class indices, and the data set's title."""
    name = card.model.name
    config = resolve_data_config(card, data, Path(name))
    crop = card.provenance.get("config", {}).get("recipe", {}).get("crop", "pad")
    dataset = open_data(config, keep_encoded=crop != "pad", preprocessing=card.preprocessing, on_progress=on_progress)
    title = dataset_title(config)
    check_one_class(multi_label=dataset.train.is_multi_label, name=title, use="int8")
    class_indices = match_classes(card.classes, dataset.classes, model_name=name, data_name=title, allow_missing=True)
    splits = []
    for split in (dataset.train, dataset.val):
        split = split.with_channels(card.model.in_channels)
        check_channels(card, split.channels, title)
        splits.append(Split(split.images, class_indices[split.labels], split.names))
    return splits[0], splits[1], title


def _calibration_batches(train: Split, count: int, on_progress: StageProgress) -> Iterator[np.ndarray]:
    """Yield random training images, the same in every call: uint8 (batch, height, width, channels)."""
    samples = sample_order(0, 0, len(train))[:count]
    batches = eval_batches_with_positions(
        train.subset(samples), None, CALIBRATION_BATCH_SIZE, workers=_num_workers(train)
    )
    with closing(batches):
        for positions, pixels, _ in batches:
            yield np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
            on_progress(int(positions[-1]) + 1, len(samples))


def _evaluate(model: ResNet | Engine, val: Split, card: ModelCard, on_progress: StageProgress) -> Predictions:
    """Return predictions of validation images, as `resnetlab evaluate` does with one crop."""

    def batches() -> LogProbBatches:
        for positions, labels, log_probs in one_crop(model, val, card.preprocessing, workers=_num_workers(val)):
            yield positions, labels, log_probs
            on_progress(int(positions[-1]) + 1, len(val))

    return merge_predictions([collect_predictions(batches(), len(val))])


def _num_workers(split: Split) -> int:
    """Return the number of decoding threads: 0 for resident images."""
    return 0 if isinstance(split.images, Tensor) else usable_cores()


def _quantize_graph(graph: "ModelProto", batches: Iterator[np.ndarray]) -> "ModelProto":
    """Return the int8 graph with ranges from batches of images."""
    onnx = optional_packages.onnx()
    optional_packages.onnxruntime()
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class BatchReader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray]:
            images = next(batches, None)
            # None ends the data, although the base class declares a dict
            return None if images is None else {INPUT: images}  # pyright: ignore[reportReturnType]

    with tempfile.TemporaryDirectory() as folder, _silence_quantizer():
        float_file, int8_file = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(graph, float_file)  # `quantize_static` removes the weights of a graph that is passed in memory
        quantize_static(
            float_file,
            int8_file,
            BatchReader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED_OPS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # without VNNI, ONNX Runtime adds two products in 16 bits; 8-bit weights saturate
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        int8_graph = onnx.load(int8_file)
    del int8_graph.metadata_props[:]  # added by ONNX Runtime
    return int8_graph


def _compare_errors(
    before: Predictions, after: Predictions, card: ModelCard, *, title: str, allowed_pct: float
) -> dict[str, Any]:
    """Return errors and agreement for the metadata.

    Raises:
        QuantizationLossError: if the error increases by more than is allowed.
    """
    error_before, error_after = (compute_metrics(predictions, card.classes).top1 for predictions in (before, after))
    loss_pct = 100 * (error_after.num_wrong - error_before.num_wrong) / len(before)
    if loss_pct > allowed_pct:
        raise QuantizationLossError(
            f"{card.model.name} in int8: top-1 error {error_after.pct:.2f} %, in fp32 {error_before.pct:.2f} %, on "
            f"{len(before):,} validation images of {title}; it loses {loss_pct:.2f} points, and {allowed_pct:g} are "
            "allowed: calibrate on images like those in use (--calibrate), or allow the loss (--allow-loss)"
        )
    return {
        "validation_images": len(before),
        "error_before_pct": error_before.pct,
        "error_after_pct": error_after.pct,
        "top1_agreement_pct": 100 * float((before.top[:, 0] == after.top[:, 0]).mean()),
    }


@contextmanager
def _silence_quantizer() -> Iterator[None]:
    """Suppress log messages of ONNX Runtime's quantiser: its advice does not apply here.

    The null handler is needed because the first warning would otherwise add a permanent handler to the root logger.
    """
    root, handler, disabled = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.removeHandler(handler)
