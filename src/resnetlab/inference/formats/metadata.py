"""Metadata of an exported file: the card of the model, the input and output, and the agreement with the source model.

All formats store the same JSON text under the key `resnetlab`: ONNX in its metadata, OpenVINO in `rt_info`,
`torch.export` in a file of its archive.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from resnetlab.models.model_card import ModelCard, ModelFileError
from resnetlab.serialization import check, from_json, one_of, to_json

Format = Literal["onnx", "openvino", "torch-export"]
LAYOUT_VERSION = 1
"""Version of the text's layout. Files with a higher one are not read."""
KEY = "resnetlab"
INPUT, OUTPUT = "images", "logits"
"""Names of the graph's input and output."""
TensorSpec = tuple[str | int, ...]
"""Element type of a graph's input or output, and its shape without the batch."""
MAX_BYTES = 2**30
"""Size limit of an exported file."""
MAX_TEXT = 2**26
"""Limit for the text, in characters. A mean for each of 224 x 224 pixels takes 3 MB."""


class ExportedFileError(ModelFileError):
    """A file that resnetlab did not export, or that is not safe to open. The message has its path and the reason."""


@dataclass(frozen=True)
class Agreement:
    """The agreement of an exported network's logits with those of its source model."""

    max_difference: float
    """Largest difference of two logits."""
    tolerance: float | None
    """The limit for that difference. `None` for int8, which is verified by its predictions."""
    by_batch: dict[str, float]
    """Largest difference at each batch size, over real and random images."""
    top1_agreement_pct: float
    """Share of the compared images with the same most probable class; for int8, of the real images only."""
    num_images: int
    """Number of compared images, real and random."""


@dataclass(frozen=True)
class ExportMetadata:
    """The metadata beside the model card."""

    format: Format
    precision: Literal["fp32", "int8"]
    agreement: Agreement
    source_sha256: str
    """SHA-256 of the exported model file."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that exported it."""
    int8: dict[str, Any] = field(default_factory=dict)
    """For int8: calibration images, agreement, and error before and after."""
    input: str = "images: uint8 (batch, height, width, channels), RGB or grey, 0 to 255; normalisation is in the graph"
    output: str = "logits: float32 (batch, classes)"

    def __post_init__(self) -> None:
        one_of("format", self.format, Format)
        one_of("precision", self.precision, Literal["fp32", "int8"])


def encode_metadata(card: ModelCard, metadata: ExportMetadata) -> str:
    """Return the metadata as ASCII text. The checksum of the file covers it."""
    return json.dumps({"format": LAYOUT_VERSION, "card": to_json(card), "passport": to_json(metadata)})


def parse_metadata(text: str, path: Path, file_format: Format) -> tuple[ModelCard, ExportMetadata]:
    """Parse the metadata of a file.

    Args:
        text: The JSON text.
        path: The file, for error messages.
        file_format: The format in which the text was found.

    Raises:
        ExportedFileError: The text has another layout, or contradicts itself or the format.
    """
    try:
        check(len(text) <= MAX_TEXT, f"{len(text):,} characters are too many")
        content = json.loads(text)
        version = content["format"]
        if isinstance(version, int) and version > LAYOUT_VERSION:
            raise ExportedFileError(
                f"{path}: written by a newer resnetlab (layout {version}); this version reads {LAYOUT_VERSION}: "
                "update resnetlab, or export it here again"
            )
        check(version == LAYOUT_VERSION, f"layout {version!r} is unknown")
        card, metadata = from_json(ModelCard, content["card"]), from_json(ExportMetadata, content["passport"])
        check(metadata.format == file_format, f"its text is of the format {metadata.format}")
        _check_consistent(card)
    except ExportedFileError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ExportedFileError(f"{path}: its metadata cannot be read ({_reason(error)})") from error
    return card, metadata


def not_exported_error(path: Path, kind: str, file_format: Format) -> ExportedFileError:
    """Return the error for a valid file of this format without metadata of resnetlab."""
    return ExportedFileError(
        f"{path}: {kind}, but not exported by resnetlab (it has no class names and no preprocessing); "
        f"create one with: resnetlab export MODEL --format {file_format}"
    )


def expected_shapes(card: ModelCard) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of a network's input and output without the batch, by name."""
    return {INPUT: (*card.preprocessing.input_size, card.model.in_channels), OUTPUT: (card.model.num_classes,)}


def check_tensors(found: Mapping[str, TensorSpec], expected: Mapping[str, TensorSpec], path: Path) -> None:
    """Raise if the inputs or outputs of a graph differ from those of its card.

    Raises:
        ExportedFileError: The message has both.
    """
    if found != expected:
        raise ExportedFileError(
            f"{path}: its graph has {_format_specs(found)}, but its card has {_format_specs(expected)}; export it again"
        )


def _format_specs(specs: Mapping[str, TensorSpec]) -> str:
    """Return `'images' UINT8 (batch, 32, 32, 3)` for the first four tensors."""
    formatted = [
        f"{name[:40]!r} {dtype} ({', '.join(['batch', *map(str, sides)][:8])})"
        for name, (dtype, *sides) in list(specs.items())[:4]
    ]
    return ", ".join(formatted) or "none"


def _check_consistent(card: ModelCard) -> None:
    """Raise `ConfigError` if network, class names and preprocessing contradict each other."""
    num_outputs, channels = card.model.num_classes, card.model.in_channels
    check(len(card.classes) == num_outputs, f"{num_outputs} outputs and {len(card.classes)} class names")
    means = len(card.preprocessing.mean)
    check(means == channels, f"the network has {channels} input channels, its preprocessing {means}")


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error).split("\n")[0][:200]
