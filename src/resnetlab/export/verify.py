"""Does an exported network say what its source says? Logits beside logits, in the runtime that the file is for."""

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

BATCHES = (1, 7)
"""Images at a time: alone, and a number that no vector unit likes."""
ALONE = 2
"""Real images, and as many random ones, that are compared at batch 1."""
RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""Difference allowed: that part of the largest logit, and never less than the second, which moves a probability by no
more than 0.001 %. Folding and another order of sums changed the logits of the catalogue's networks by up to 8e-6 of the
largest (ResNet-152, docs/log.md); bf16, an epsilon of 1e-3, or one layer scaled by 1.001 are beyond it (tested)."""

INT8 = 0.25
"""The same for int8, of the logits of the graph that was judged on validation images: runtimes round at other places,
which moved ResNet-20's by 0.04 of the largest, and a graph that was misread gives something else altogether."""

Answers = Callable[[np.ndarray], np.ndarray]
"""uint8 images (batch, height, width, channels) → logits, float32 (batch, classes)."""


class ExportMismatchError(RuntimeError):
    """An exported network that does not compute what its source does; the message has the figures."""


@dataclass(frozen=True)
class VerificationSet:
    """What an exported network is asked, and what its source said."""

    num_images: int
    """Pictures and noise."""
    real: tuple[bool, ...]
    """Of each batch, whether its images are pictures, or else noise."""
    views: tuple[np.ndarray, ...]
    """uint8 images (batch, height, width, channels)."""
    logits: tuple[np.ndarray, ...]
    """float32 (batch, classes)."""
    int8: tuple[np.ndarray, ...] | None = None
    """What its int8 graph said, where that is exported."""


def build_verification_set(model: ResNet, preprocessing: Preprocessing, pictures: np.ndarray) -> VerificationSet:
    """Ask the source: pictures and as much noise, at batch 1 and 7.

    Args:
        model: The network, whose normalisations are not folded.
        preprocessing: Its own.
        pictures: As the network sees them, uint8; at least one.

    Raises:
        DisagreementError: where its logits are not finite, so that nothing can agree with them.
    """
    source, random = TorchEngine(model, preprocessing), probe_noise(preprocessing, BATCHES[-1])
    real, views = [], []
    for images, are_real in ((pictures, True), (random, False)):
        for batch in _batches(images):
            real.append(are_real)
            views.append(batch)
    logits = tuple(source.logits(batch) for batch in views)
    if not all(np.isfinite(one).all() for one in logits):
        raise ExportMismatchError(
            f"{model.config.name} gives logits that are not finite: its weights are broken (did the training diverge?)"
        )
    return VerificationSet(len(pictures) + len(random), tuple(real), tuple(views), logits)


def with_int8_reference(asked: VerificationSet, graph: Callable[[], bytes]) -> VerificationSet:
    """Ask the int8 graph of the source too, in the runtime in which it was judged."""
    answers = OnnxEngine(graph, "int8", cores=usable_cores(), callers=1).logits
    return replace(asked, int8=tuple(answers(batch) for batch in asked.views))


def compare_logits(asked: VerificationSet, answers: Answers) -> Agreement:
    """Ask an exported network the same, and compare; in int8 with the int8 graph, so that only the export is judged.

    Raises:
        DisagreementError: where logits differ by more than the tolerance, or are not finite.
    """
    found = [answers(batch) for batch in asked.views]
    expected, relative = (asked.logits, RELATIVE) if asked.int8 is None else (asked.int8, INT8)
    largest = max(float(np.abs(one).max()) for one in expected)
    tolerance = max(ABSOLUTE, relative * largest)
    by_batch = _differences(expected, found)
    if not all(difference <= tolerance for difference in by_batch.values()):  # nor where one is not a number
        figures = " and ".join(f"{difference:.3g} at batch {size}" for size, difference in by_batch.items())
        raise ExportMismatchError(
            f"its logits are not the network's: they differ by up to {figures}; {tolerance:.2g} is "
            f"allowed (the largest logit is {largest:.3g})"
        )
    by_batch = _differences(asked.logits, found)
    looked_at = [at for at, real in enumerate(asked.real) if real or asked.int8 is None]
    same = np.concatenate([asked.logits[at].argmax(1) == found[at].argmax(1) for at in looked_at])
    return Agreement(
        max_difference=max(by_batch.values()),
        tolerance=tolerance if asked.int8 is None else None,
        by_batch=by_batch,
        top1_agreement_pct=100 * float(same.mean()),
        num_images=asked.num_images,
    )


def open_exported(path: Path, kind: Format, precision: Precision) -> Answers:
    """Open an exported file, just written and so trusted, in the runtime that it is for.

    Raises:
        ConfigError: where that is not installed.
    """
    cores = usable_cores()
    if kind == "onnx":
        return OnnxEngine(path.read_bytes, precision, cores=cores, callers=1).logits
    if kind == "openvino":
        files = (path.read_bytes, weights_file(path).read_bytes)
        return OpenVinoEngine(lambda: (files[0](), files[1]()), precision, cores=cores, callers=1).logits
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)  # PyTorch 2.11, of its own
        module = torch.export.load(path).module()

    @torch.no_grad()
    def answers(views: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(views)).numpy()

    return answers


def _batches(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the first images alone, and all of them in batches of seven, the last one filled up from the start."""
    yield from (images[at : at + 1] for at in range(min(ALONE, len(images))))
    size = BATCHES[-1]
    for start in range(0, len(images), size):
        yield images[np.arange(start, start + size) % len(images)]


def _differences(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the largest difference at each batch size; not a number where one is."""
    by_batch = {str(size): 0.0 for size in BATCHES}
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape:
            raise ExportMismatchError(f"its logits have the shape {other.shape}, and the network's {one.shape}")
        largest = np.abs(one.astype(np.float64) - other).max()
        by_batch[str(len(one))] = float(np.maximum(by_batch[str(len(one))], largest))  # keeps what is not a number
    return by_batch
