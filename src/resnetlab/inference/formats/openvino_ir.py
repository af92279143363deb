"""Exported OpenVINO IR: an `.xml` and a `.bin`, read only if resnetlab exported them and they are complete and safe."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.parsers import expat

from resnetlab.inference import optional_packages
from resnetlab.inference.formats import checksum
from resnetlab.inference.formats.metadata import (
    INPUT,
    KEY,
    OUTPUT,
    ExportedFileError,
    ExportMetadata,
    TensorSpec,
    check_tensors,
    expected_shapes,
    not_exported_error,
    parse_metadata,
)
from resnetlab.models.model_card import ModelCard

MARKER = f'<{checksum.NAME} value="'.encode()
NESTED_GRAPH_TAGS = ("body", "then_body", "else_body")
"""XML elements of the graphs inside loops and branches."""


def weights_file(path: Path) -> Path:
    """Return the file with the weights of an `.xml`, where OpenVINO looks for it too."""
    return path.with_suffix(".bin")


def encode(onnx_content: bytes, text: str) -> tuple[bytes, bytes]:
    """Convert a serialised ONNX graph, in full precision, and add its metadata text.

    Returns:
        The content of the `.xml` and of the `.bin`.

    Raises:
        ConfigError: OpenVINO is not installed.
    """
    openvino = optional_packages.openvino()
    model = optional_packages.openvino_core().read_model(model=onnx_content)
    for key, value in ((KEY, text), (checksum.NAME, checksum.PLACEHOLDER)):
        model.set_rt_info(value, [key])
    with TemporaryDirectory(prefix="resnetlab-") as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        weights = weights_file(path)
        return checksum.embed_checksum(path.read_bytes(), MARKER, weights), weights.read_bytes()


def read(path: Path, content: bytes, num_weight_bytes: int) -> tuple[ModelCard, ExportMetadata]:
    """Check that an `.xml` and its `.bin` are safe and complete, and return their card and metadata.

    Args:
        path: The `.xml`. The `.bin` is read in chunks and not held in memory.
        content: The whole `.xml`.
        num_weight_bytes: Size of the `.bin`.

    Raises:
        ExportedFileError: A check failed.
    """
    summary = _parse(path, content)
    if KEY not in summary.rt_info:
        raise not_exported_error(path, "an OpenVINO network", "openvino")
    if summary.unsupported:
        raise ExportedFileError(f"{path}: uses {summary.unsupported}, which no network of resnetlab has")
    weights = weights_file(path)
    if summary.weights_end > num_weight_bytes:
        raise ExportedFileError(
            f"{weights}: has {num_weight_bytes:,} bytes, but {path.name} needs {summary.weights_end:,}; it was cut "
            "off, or is of another export"
        )
    if not checksum.verify_checksum(content, MARKER, weights):
        raise ExportedFileError(
            f"{path}: it or {weights.name} is damaged, changed since it was exported, or of another "
            "export (their SHA-256 differs); export it again"
        )
    card, metadata = parse_metadata(summary.rt_info[KEY], path, "openvino")
    shapes = expected_shapes(card)
    check_tensors(summary.tensors, {INPUT: ("U8", *shapes[INPUT]), OUTPUT: ("FP32", *shapes[OUTPUT])}, path)
    return card, metadata


@dataclass
class _Summary:
    """The facts about an `.xml` that are checked before OpenVINO reads it."""

    rt_info: dict[str, str] = field(default_factory=dict)
    """The network's `rt_info`."""
    unsupported: str = ""
    """A layer that is not OpenVINO's own, or a nested graph."""
    weights_end: int = 0
    """The largest offset of the `.bin` that is used, in bytes."""
    tensors: dict[str, TensorSpec] = field(default_factory=dict)
    """Element type, and shape without the batch, of inputs and outputs by name."""


def _parse(path: Path, content: bytes) -> _Summary:
    """Parse the XML once, without expanding entities or opening other files. A document type is an error."""
    handler = _Handler()
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = handler.start, handler.end
    parser.CharacterDataHandler = handler.text
    parser.StartDoctypeDeclHandler = handler.doctype
    try:
        parser.Parse(content, True)
    except _DoctypeError as error:
        raise ExportedFileError(
            f"{path}: declares a document type, which OpenVINO never writes and which can make XML "
            "fill the memory; export it again"
        ) from error
    except (expat.ExpatError, ValueError, KeyError, IndexError, UnicodeError) as error:
        raise ExportedFileError(f"{path}: not an OpenVINO network, or a damaged one ({error})") from error
    return handler.summary


class _DoctypeError(Exception):
    pass


class _Handler:
    """The callbacks of expat, which collect the summary."""

    def __init__(self) -> None:
        self.summary = _Summary()
        self._path: list[str] = []
        self._layer: dict[str, str] = {}
        self._port: tuple[str, str, list[str]] = ("", "", [])
        """The last port: the names of its tensor, the element type, the dimensions."""

    def doctype(self, *_: object) -> None:
        raise _DoctypeError

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        if tag in NESTED_GRAPH_TAGS:
            self._set_unsupported("a graph inside its graph")
        match self._path[1:]:
            case ["layers", "layer"]:
                self._layer = attributes
                if not re.fullmatch(r"opset\d{1,3}", attributes["version"]):
                    self._set_unsupported(f"a layer that is not OpenVINO's own ({self._layer_type[:40]!r})")
            case ["layers", "layer", "data"] if self._layer_type == "Const":
                end = int(attributes["offset"]) + int(attributes["size"])
                self.summary.weights_end = max(self.summary.weights_end, end)
            case ["layers", "layer", "input" | "output", "port"]:
                self._port = (attributes.get("names", ""), attributes["precision"], [])
            case ["rt_info", key]:
                self.summary.rt_info[key] = attributes.get("value", "")

    def text(self, text: str) -> None:
        if self._path[-1] == "dim":
            self._port[2].append(text)

    def end(self, _: str) -> None:
        if self._path[1:] == ["layers", "layer"] and self._layer_type in ("Parameter", "Result"):
            name, dtype, sides = self._port
            if self._layer_type == "Result":
                name = self._layer.get("output_names") or self._layer["name"].partition("/")[0]
            self.summary.tensors[name] = (dtype, *(map(int, sides[1:] if sides[:1] == ["-1"] else ["0", *sides])))
        self._path.pop()

    def _set_unsupported(self, feature: str) -> None:
        self.summary.unsupported = self.summary.unsupported or feature

    @property
    def _layer_type(self) -> str:
        return self._layer["type"]
