"""An exported `.onnx`: one file with everything in it; opened only if it is ours, whole, and asks for nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from onnx import ModelProto

MARK = checksum.NAME.encode() + b"\x12\x40"
"""The key of the seal, and how protobuf says that 64 bytes of value follow."""


def encode(model: "ModelProto", text: str) -> bytes:
    """Return the file of a graph and its text; the graph is left as it is."""
    said = optional_packages.onnx().ModelProto()
    for key, value in ((KEY, text), (checksum.NAME, checksum.OPEN)):  # the seal last: it is looked for from the end
        said.metadata_props.add(key=key, value=value)
    return checksum.embed_checksum(
        model.SerializeToString() + said.SerializeToString(), MARK
    )  # messages in a row are merged


def read(path: Path, content: bytes) -> tuple[ModelCard, ExportMetadata]:
    """Read what a file says of itself, after everything that could make it unsafe or wrong was looked for.

    Raises:
        ArtefactError: where anything was found.
        ConfigError: where the package onnx is not installed.
    """
    onnx = optional_packages.onnx()
    try:
        model = onnx.load_model_from_string(content)
        model.graph.input  # noqa: B018  # protobuf decodes some parts when they are first asked for
    except Exception as error:  # what protobuf raises differs between its implementations
        raise ExportedFileError(f"{path}: not an ONNX model, or a damaged one") from error
    said = {item.key: item.value for item in model.metadata_props}
    if KEY not in said:
        raise (
            foreign_file_error(path, "an ONNX model", "onnx")
            if model.graph.node
            else ExportedFileError(f"{path}: not an ONNX model, or a damaged one")
        )
    _refuse(model, path)
    if not checksum.verify_checksum(content, MARK):
        raise ExportedFileError(
            f"{path}: damaged, or changed since it was exported (its SHA-256 differs); export it again"
        )
    card, passport = parse_metadata(said[KEY], path, "onnx")
    _compare_shapes(model.graph, card, path)
    return card, passport


def _refuse(model: "ModelProto", path: Path) -> None:
    """Refuse what no export of ours has: other files, code of others, loops."""
    if any(_is_outside(tensor) for tensor in _tensors(model)):
        raise ExportedFileError(
            f"{path}: has weights outside of itself (external data), and another file is never opened; "
            "an export of resnetlab is one file"
        )
    if len(model.functions) or len(model.training_info):
        raise ExportedFileError(f"{path}: holds functions or training steps; an export of resnetlab is one graph")
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            name = f"{node.domain}.{node.op_type}"[:80]
            raise ExportedFileError(f"{path}: uses {name!r}, an operator that is not ONNX's own")
        if any(one.HasField("g") or len(one.graphs) for one in node.attribute):
            raise ExportedFileError(
                f"{path}: has a graph inside a graph ({node.op_type[:40]!r}); no network of resnetlab has"
            )


def _tensors(message: Any) -> Iterator[Any]:
    """Yield every tensor anywhere in a message: initialisers, attributes, sparse ones, those of graphs inside."""
    if message.DESCRIPTOR.full_name == "onnx.TensorProto":
        yield message
        return
    for described, value in message.ListFields():
        if described.message_type is None:
            continue
        for item in [value] if hasattr(value, "DESCRIPTOR") else value:
            yield from _tensors(item)


def _is_outside(tensor: Any) -> bool:
    return tensor.data_location != 0 or len(tensor.external_data) > 0


def _compare_shapes(graph: Any, card: ModelCard, path: Path) -> None:
    """Refuse a graph that takes or gives something else than its card says."""
    kept = {tensor.name for tensor in graph.initializer}
    inputs = [one for one in graph.input if one.name not in kept]
    for name, kind, found in ((INPUT, "UINT8", inputs), (OUTPUT, "FLOAT", graph.output)):
        check_tensor({one.name: _shape(one) for one in found}, {name: (kind, *expected_shapes(card)[name])}, path)


def _shape(value: Any) -> End:
    """Return the type of the elements, and the shape without the batch; -1 where a side is not fixed."""
    tensor = value.type.tensor_type
    names = optional_packages.onnx().TensorProto.DataType
    kind = names.Name(tensor.elem_type) if tensor.elem_type in names.values() else str(tensor.elem_type)
    batch, *sides = [side.dim_value if side.HasField("dim_value") else -1 for side in tensor.shape.dim] or [0]
    return (kind, *sides) if batch == -1 else (kind, 0, *sides)
