"""An exported OpenVINO network: `.xml` and the `.bin` beside it; opened only if ours, whole, and of standard layers."""

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
    End,
    ExportedFileError,
    ExportMetadata,
    check_tensor,
    expected_shapes,
    foreign_file_error,
    parse_metadata,
)
from resnetlab.models.model_card import ModelCard

MARK = f'<{checksum.NAME} value="'.encode()
BODIES = ("body", "then_body", "else_body")
"""Where XML has the graphs inside of loops and branches."""


def weights_file(path: Path) -> Path:
    """Return the file of weights that belongs to an `.xml`; OpenVINO looks for it there, too."""
    return path.with_suffix(".bin")


def encode(onnx_file: bytes, text: str) -> tuple[bytes, bytes]:
    """Return the `.xml` and the `.bin` of an ONNX graph, in full precision, with a text.

    Raises:
        ConfigError: where OpenVINO is not installed.
    """
    openvino = optional_packages.openvino()
    model = optional_packages.openvino_core().read_model(model=onnx_file)
    for key, value in ((KEY, text), (checksum.NAME, checksum.OPEN)):
        model.set_rt_info(value, [key])
    with TemporaryDirectory(prefix="resnetlab-") as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        weights = weights_file(path)
        return checksum.embed_checksum(path.read_bytes(), MARK, weights), weights.read_bytes()


def read(path: Path, content: bytes, num_bytes: int) -> tuple[ModelCard, ExportMetadata]:
    """Read what an `.xml` says of itself, after everything that could make it unsafe or wrong was looked for.

    Args:
        path: The `.xml`; of the `.bin` nothing is kept in memory.
        content: All of the `.xml`.
        num_bytes: Length of the `.bin`.

    Raises:
        ArtefactError: where anything was found.
    """
    graph = _parsed(path, content)
    if KEY not in graph.says:
        raise foreign_file_error(path, "an OpenVINO network", "openvino")
    if graph.foreign:
        raise ExportedFileError(f"{path}: uses {graph.foreign}, which no network of resnetlab has")
    weights = weights_file(path)
    if graph.end > num_bytes:
        raise ExportedFileError(
            f"{weights}: has {num_bytes:,} bytes, and {path.name} asks for {graph.end:,}; it was cut "
            "off, or is of another export"
        )
    if not checksum.verify_checksum(content, MARK, weights):
        raise ExportedFileError(
            f"{path}: it or {weights.name} is damaged, changed since it was exported, or of another "
            "export (their SHA-256 differs); export it again"
        )
    card, passport = parse_metadata(graph.says[KEY], path, "openvino")
    shapes = expected_shapes(card)
    check_tensor(graph.ends, {INPUT: ("U8", *shapes[INPUT]), OUTPUT: ("FP32", *shapes[OUTPUT])}, path)
    return card, passport


@dataclass
class _Graph:
    """What has to be known of an `.xml` before OpenVINO reads it."""

    says: dict[str, str] = field(default_factory=dict)
    """The network's `rt_info`."""
    foreign: str = ""
    """What it uses that is not OpenVINO's own, or a graph inside the graph."""
    end: int = 0
    """So many bytes of weights are asked for."""
    ends: dict[str, End] = field(default_factory=dict)
    """Of what it takes and gives, by name: type of the elements, and shape without the batch."""


def _parsed(path: Path, content: bytes) -> _Graph:
    """Go through the XML once. No entity is ever expanded, and no other file opened: a document type is refused."""
    reader = _Reader()
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.doctype
    try:
        parser.Parse(content, True)
    except _DoctypeError as error:
        raise ExportedFileError(
            f"{path}: declares a document type, which OpenVINO never writes and which can make XML "
            "fill the memory; export it again"
        ) from error
    except (expat.ExpatError, ValueError, KeyError, IndexError, UnicodeError) as error:
        raise ExportedFileError(f"{path}: not an OpenVINO network, or a damaged one ({error})") from error
    return reader.graph


class _DoctypeError(Exception):
    pass


class _Reader:
    """What expat calls, element by element."""

    def __init__(self) -> None:
        self.graph = _Graph()
        self._path: list[str] = []
        self._layer: dict[str, str] = {}
        self._port: tuple[str, str, list[str]] = ("", "", [])
        """Of the last port: the names of its tensor, the type of the elements, the sides."""

    def doctype(self, *_: object) -> None:
        raise _DoctypeError

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        if tag in BODIES:
            self.graph.foreign = self.graph.foreign or "a graph inside its graph"
        match self._path[1:]:
            case ["layers", "layer"]:
                self._layer = attributes
                if not re.fullmatch(r"opset\d{1,3}", attributes["version"]):
                    self.graph.foreign = (
                        self.graph.foreign or f"a layer that is not OpenVINO's own ({self._kind[:40]!r})"
                    )
            case ["layers", "layer", "data"] if self._kind == "Const":
                self.graph.end = max(self.graph.end, int(attributes["offset"]) + int(attributes["size"]))
            case ["layers", "layer", "input" | "output", "port"]:
                self._port = (attributes.get("names", ""), attributes["precision"], [])
            case ["rt_info", key]:
                self.graph.says[key] = attributes.get("value", "")

    def text(self, text: str) -> None:
        if self._path[-1] == "dim":
            self._port[2].append(text)

    def end(self, _: str) -> None:
        if self._path[1:] == ["layers", "layer"] and self._kind in ("Parameter", "Result"):
            name, kind, sides = self._port
            if self._kind == "Result":
                name = self._layer.get("output_names") or self._layer["name"].partition("/")[0]
            self.graph.ends[name] = (kind, *(map(int, sides[1:] if sides[:1] == ["-1"] else ["0", *sides])))
        self._path.pop()

    @property
    def _kind(self) -> str:
        return self._layer["type"]
