"""Verification of an export: its logits in the runtime of its format against those of the source network."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from resnetlab.config import Preprocessing
from resnetlab.inference.engines.base import Precision
from resnetlab.inference.engines.onnx_runtime import OnnxEngine
from resnetlab.inference.engines.openvino_runtime import OpenVinoEngine
from resnetlab.inference.engines.pytorch import TorchEngine
from resnetlab.inference.formats.exported_file import Agreement, Format
from resnetlab.inference.formats.openvino_ir import weights_file
from resnetlab.inference.probe_images import probe_noise
from resnetlab.models.resnet import ResNet
from resnetlab.system.cores import usable_cores

BATCH_SIZES = (1, 7)
"""A single image, and a batch size that is not a multiple of any vector width."""
NUM_SINGLE_IMAGES = 2
"""Real images, and as many random images, that are compared at batch 1."""
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-4, 1e-5
"""Allowed difference of logits: a fraction of the largest logit, and at least the absolute tolerance, which changes a
probability by at most 0.001 %. Folding and another order of sums changed the logits of the networks in the zoo by up to
8e-6 of the largest (ResNet-152, docs/log.md). bf16, an epsilon of 1e-3, or one layer scaled by 1.001 exceed the
tolerance (tested)."""

INT8_RELATIVE_TOLERANCE = 0.25
"""The same for int8, relative to the logits of the int8 graph that was evaluated on validation images. Runtimes round
in different places, which changed ResNet-20's logits by 0.04 of the largest; a misread graph gives unrelated logits."""

LogitsFunction = Callable[[np.ndarray], np.ndarray]
"""Returns logits, float32 (batch, num_classes), of uint8 images (batch, height, width, channels)."""


class ExportMismatchError(RuntimeError):
    """An exported network whose logits differ from its source; the message has the differences."""


@dataclass(frozen=True, kw_only=True)
class VerificationSet:
    """Image batches with the logits of the source network."""

    num_images: int
    """Number of different images, real and random."""
    is_real: tuple[bool, ...]
    """Whether a batch has real images or random ones."""
    batches: tuple[np.ndarray, ...]
    """uint8 images (batch, height, width, channels)."""
    logits: tuple[np.ndarray, ...]
    """Logits of the source network: float32 (batch, num_classes)."""
    int8_logits: tuple[np.ndarray, ...] | None = None
    """Logits of the int8 graph, if that is exported."""


def build_verification_set(model: ResNet, preprocessing: Preprocessing, images: np.ndarray) -> VerificationSet:
    """Compute the reference logits of real and random images at batch 1 and 7.

    Args:
        model: The network before batch-normalisation folding.
        preprocessing: The network's preprocessing.
        images: At least one real image: uint8 (batch, height, width, channels).

    Raises:
        ExportMismatchError: if the network's logits are not finite.
    """
    engine, noise = TorchEngine(model, preprocessing), probe_noise(preprocessing, BATCH_SIZES[-1])
    is_real, batches = [], []
    for source, real in ((images, True), (noise, False)):
        for batch in _split_batches(source):
            is_real.append(real)
            batches.append(batch)
    logits = tuple(engine.logits(batch) for batch in batches)
    if not all(np.isfinite(batch_logits).all() for batch_logits in logits):
        raise ExportMismatchError(
            f"{model.config.name} has logits that are not finite: its weights are broken (did the training diverge?)"
        )
    return VerificationSet(
        num_images=len(images) + len(noise), is_real=tuple(is_real), batches=tuple(batches), logits=logits
    )


def with_int8_reference(verification_set: VerificationSet, read_graph: Callable[[], bytes]) -> VerificationSet:
    """Add the logits of the int8 graph, in the runtime in which it was evaluated."""
    logits = OnnxEngine(read_graph, "int8", cores=usable_cores(), callers=1).logits
    return replace(verification_set, int8_logits=tuple(logits(batch) for batch in verification_set.batches))


def compare_logits(verification_set: VerificationSet, logits: LogitsFunction) -> Agreement:
    """Compare the logits of an exported network with the reference.

    The reference of an int8 export is the int8 graph, so that the tolerance covers only the export. The reported
    differences are always to the source network.

    Raises:
        ExportMismatchError: if logits differ by more than the tolerance, are not finite, or have another shape.
    """
    exported = [logits(batch) for batch in verification_set.batches]
    is_int8 = verification_set.int8_logits is not None
    expected = verification_set.logits if verification_set.int8_logits is None else verification_set.int8_logits
    largest = max(float(np.abs(batch).max()) for batch in expected)
    tolerance = max(ABSOLUTE_TOLERANCE, (INT8_RELATIVE_TOLERANCE if is_int8 else RELATIVE_TOLERANCE) * largest)
    by_batch = _max_differences(expected, exported)
    if not all(difference <= tolerance for difference in by_batch.values()):  # also true for NaN
        differences = " and ".join(f"{difference:.3g} at batch {size}" for size, difference in by_batch.items())
        raise ExportMismatchError(
            f"its logits differ from the network's by up to {differences}; {tolerance:.2g} is "
            f"allowed (the largest logit is {largest:.3g})"
        )
    by_batch = _max_differences(verification_set.logits, exported)
    compared = [index for index, real in enumerate(verification_set.is_real) if real or not is_int8]
    same_class = np.concatenate(
        [verification_set.logits[index].argmax(1) == exported[index].argmax(1) for index in compared]
    )
    return Agreement(
        max_difference=max(by_batch.values()),
        tolerance=None if is_int8 else tolerance,
        by_batch=by_batch,
        top1_agreement_pct=100 * float(same_class.mean()),
        num_images=verification_set.num_images,
    )


def open_exported(path: Path, kind: Format, precision: Precision) -> LogitsFunction:
    """Open an exported file in the runtime of its format, without the safety checks for files of unknown origin.

    Raises:
        ConfigError: if the runtime is not installed.
    """
    cores = usable_cores()
    if kind == "onnx":
        return OnnxEngine(path.read_bytes, precision, cores=cores, callers=1).logits
    if kind == "openvino":
        read_xml, read_weights = path.read_bytes, weights_file(path).read_bytes
        return OpenVinoEngine(lambda: (read_xml(), read_weights()), precision, cores=cores, callers=1).logits
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)  # from PyTorch 2.11 itself
        module = torch.export.load(path).module()

    @torch.no_grad()
    def logits(images: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(images)).numpy()

    return logits


def _split_batches(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the first images singly, then all in batches of 7; the first images fill up the last batch."""
    yield from (images[index : index + 1] for index in range(min(NUM_SINGLE_IMAGES, len(images))))
    size = BATCH_SIZES[-1]
    for start in range(0, len(images), size):
        yield images[np.arange(start, start + size) % len(images)]


def _max_differences(expected: Sequence[np.ndarray], exported: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the largest difference at each batch size; NaN if a logit is NaN."""
    by_batch = {str(size): 0.0 for size in BATCH_SIZES}
    for reference, logits in zip(expected, exported, strict=True):
        if reference.shape != logits.shape:
            raise ExportMismatchError(f"its logits have the shape {logits.shape}, and the network's {reference.shape}")
        size, largest = str(len(reference)), np.abs(reference.astype(np.float64) - logits).max()
        by_batch[size] = float(np.maximum(by_batch[size], largest))  # np.maximum propagates NaN
    return by_batch
