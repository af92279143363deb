"""What an exported file says of itself: the model file's card, what it takes, and how closely it agrees. No torch here.

All formats carry the same text under the key `resnetlab`: ONNX in its metadata, OpenVINO in `rt_info`, `torch.export`
in a file of its archive.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from resnetlab.models.card import ModelCard, ModelFileError

Format = Literal["onnx", "openvino", "torch-export"]
SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch-export"}
"""A format by the suffix of its file; OpenVINO's weights stand in the `.bin` beside the `.xml`."""
KEY = "resnetlab"
INPUT, OUTPUT = "images", "logits"
"""Names in the graph."""
MAX_BYTES = 2**30
"""A larger file is not opened."""


class ArtefactError(ModelFileError):
    """A file that is no export of this project, or that must not be opened; the message names it and says why."""


@dataclass(frozen=True)
class Agreement:
    """How closely the logits of an exported network agree with those of its source."""

    max_difference: float
    """The largest difference of two logits."""
    tolerance: float
    """The difference up to which it was written."""
    by_batch: dict[str, float]
    """The largest difference at each batch size, real and random images together."""
    top1_agreement_pct: float
    """Share of the images compared whose most probable class is the same."""
    num_images: int


@dataclass(frozen=True)
class Passport:
    """What an exported file says beside the card."""

    format: Format
    precision: Literal["fp32", "int8"]
    agreement: Agreement
    source_sha256: str
    """Of the model file it was made of."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages that made it."""
    int8: dict[str, Any] = field(default_factory=dict)
    """Calibration images, agreement and error before and after, where precision is int8."""
    input: str = "images: uint8 (batch, height, width, channels), RGB or grey, 0 to 255; normalisation is in the graph"
    output: str = "logits: float32 (batch, classes)"


@dataclass(frozen=True)
class Artefact:
    """An exported file."""

    path: Path
    card: ModelCard
    passport: Passport
