"""What an exported file says of itself: the model file's card, what it takes, and how closely it agrees. No torch here.

All formats carry the same text under the key `resnetlab`: ONNX in its metadata, OpenVINO in `rt_info`, `torch.export`
in a file of its archive.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from resnetlab.models.model_card import ModelCard, ModelFileError
from resnetlab.serialization import check, from_json, one_of, to_json

Format = Literal["onnx", "openvino", "torch-export"]
NUMBER = 1
"""Of the layout of this text; a file with a higher one is not read."""
KEY = "resnetlab"
INPUT, OUTPUT = "images", "logits"
"""Names in the graph."""
End = tuple[str | int, ...]
"""What a graph takes or gives: the type of the elements, and the shape without the batch."""
MAX_BYTES = 2**30
"""A larger file is not opened."""
MAX_TEXT = 2**26
"""Nor is one that says more of itself, in bytes; a mean for each of 224 x 224 pixels takes 3 MB."""


class ExportedFileError(ModelFileError):
    """A file that is no export of this project, or that must not be opened; the message names it and says why."""


@dataclass(frozen=True)
class Agreement:
    """How closely the logits of an exported network agree with those of its source."""

    max_difference: float
    """The largest difference of two logits."""
    tolerance: float | None
    """The difference up to which it was written; `None` for int8, which is judged by its answers."""
    by_batch: dict[str, float]
    """The largest difference at each batch size, real and random images together."""
    top1_agreement_pct: float
    """Share of the images compared whose most probable class is the same; for int8 of the real ones alone."""
    num_images: int
    """Images compared, real and random ones."""


@dataclass(frozen=True)
class ExportMetadata:
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

    def __post_init__(self) -> None:
        one_of("format", self.format, Format)
        one_of("precision", self.precision, Literal["fp32", "int8"])


def encode_metadata(card: ModelCard, passport: ExportMetadata) -> str:
    """Return the text; it is ASCII, and parts of a file's seal."""
    return json.dumps({"format": NUMBER, "card": to_json(card), "passport": to_json(passport)})


def parse_metadata(text: str, path: Path, kind: Format) -> tuple[ModelCard, ExportMetadata]:
    """Read the text of a file of one format; `path` is for the error.

    Raises:
        ArtefactError: where it is not of this layout, or its parts contradict each other.
    """
    try:
        check(len(text) <= MAX_TEXT, f"{len(text):,} letters are too many")
        content = json.loads(text)
        number = content["format"]
        if isinstance(number, int) and number > NUMBER:
            raise ExportedFileError(
                f"{path}: written by a newer resnetlab (layout {number}); this one reads {NUMBER}: "
                "update resnetlab, or export it here again"
            )
        check(number == NUMBER, f"layout {number!r} is unknown")
        card, passport = from_json(ModelCard, content["card"]), from_json(ExportMetadata, content["passport"])
        check(passport.format == kind, f"its text is of the format {passport.format}")
        _fit(card)
    except ExportedFileError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ExportedFileError(f"{path}: what it says of its network cannot be read ({_reason(error)})") from error
    return card, passport


def foreign_file_error(path: Path, what: str, kind: Format) -> ExportedFileError:
    """Return the error for a file that says nothing of this project."""
    return ExportedFileError(
        f"{path}: {what}, but not one that resnetlab exported (it does not say which classes it knows and how it sees "
        f"images); make one: resnetlab export MODEL --format {kind}"
    )


def expected_shapes(card: ModelCard) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes, without the batch, of what the network of a card takes and gives, by name."""
    size = card.preprocessing.image_size
    return {INPUT: (size, size, card.model.in_channels), OUTPUT: (card.model.num_classes,)}


def check_tensor(found: Mapping[str, End], wanted: Mapping[str, End], path: Path) -> None:
    """Refuse a graph that takes or gives something else than its card says.

    Raises:
        ArtefactError: with both.
    """
    if found != wanted:
        raise ExportedFileError(
            f"{path}: its graph has {_words(found)}, and its card says {_words(wanted)}; export it again"
        )


def _words(ends: Mapping[str, End]) -> str:
    """Return `'images' UINT8 (batch, 32, 32, 3)`; of many ends the first."""
    shown = [
        f"{name[:40]!r} {kind} ({', '.join(['batch', *map(str, sides)][:8])})"
        for name, (kind, *sides) in list(ends.items())[:4]
    ]
    return ", ".join(shown) or "none"


def _fit(card: ModelCard) -> None:
    """Raise `ConfigError` where network, classes and preprocessing contradict each other."""
    outputs, channels = card.model.num_classes, card.model.in_channels
    check(len(card.classes) == outputs, f"{outputs} outputs, and {len(card.classes)} classes have names")
    means = len(card.preprocessing.mean)
    check(means == channels, f"the network reads {channels} channels, its preprocessing {means}")


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error).split("\n")[0][:200]
