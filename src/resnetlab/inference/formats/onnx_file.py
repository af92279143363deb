"""Exported `.onnx` files: one file with all weights, read only if resnetlab exported it and it is complete and safe."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from onnx import ModelProto

MARKER = checksum.NAME.encode() + b"\x12\x40"
"""The key of the checksum, and protobuf's prefix of a value of 64 bytes."""


def encode(model: "ModelProto", text: str) -> bytes:
    """Return the file of a graph with its metadata text. The graph itself is not changed."""
    metadata = optional_packages.onnx().ModelProto()
    for key, value in ((KEY, text), (checksum.NAME, checksum.PLACEHOLDER)):  # `verify_checksum` searches from the end
        metadata.metadata_props.add(key=key, value=value)
    # Protobuf merges concatenated messages.
    return checksum.embed_checksum(model.SerializeToString() + metadata.SerializeToString(), MARKER)


def read(path: Path, content: bytes) -> tuple[ModelCard, ExportMetadata]:
    """Check that a file is safe and complete, and return its card and metadata.

    Raises:
        ExportedFileError: A check failed.
        ConfigError: The package onnx is not installed.
    """
    onnx = optional_packages.onnx()
    try:
        model = onnx.load_model_from_string(content)
        model.graph.input  # noqa: B018  # protobuf decodes some parts at the first access
    except Exception as error:  # the exception differs between protobuf's implementations
        raise ExportedFileError(f"{path}: not an ONNX model, or a damaged one") from error
    texts = {item.key: item.value for item in model.metadata_props}
    if KEY not in texts:
        raise (
            not_exported_error(path, "an ONNX model", "onnx")
            if model.graph.node
            else ExportedFileError(f"{path}: not an ONNX model, or a damaged one")
        )
    _check_safe(model, path)
    if not checksum.verify_checksum(content, MARKER):
        raise ExportedFileError(
            f"{path}: damaged, or changed since it was exported (its SHA-256 differs); export it again"
        )
    card, metadata = parse_metadata(texts[KEY], path, "onnx")
    _check_shapes(model.graph, card, path)
    return card, metadata


def _check_safe(model: "ModelProto", path: Path) -> None:
    """Raise if a model has what no export of resnetlab has: external files, custom operators, nested graphs."""
    if any(_is_external(tensor) for tensor in _tensors(model)):
        raise ExportedFileError(
            f"{path}: has weights in another file (external data), which is never opened; "
            "an export of resnetlab is one file"
        )
    if len(model.functions) or len(model.training_info):
        raise ExportedFileError(f"{path}: has functions or training steps; an export of resnetlab is one graph")
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            name = f"{node.domain}.{node.op_type}"[:80]
            raise ExportedFileError(f"{path}: uses {name!r}, which is not a standard ONNX operator")
        if any(attribute.HasField("g") or len(attribute.graphs) for attribute in node.attribute):
            raise ExportedFileError(
                f"{path}: has a graph inside a graph ({node.op_type[:40]!r}); no network of resnetlab has"
            )


def _tensors(message: Any) -> Iterator[Any]:
    """Yield every tensor in a message: initialisers, attributes, sparse tensors, and those of nested graphs."""
    if message.DESCRIPTOR.full_name == "onnx.TensorProto":
        yield message
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for item in [value] if hasattr(value, "DESCRIPTOR") else value:
            yield from _tensors(item)


def _is_external(tensor: Any) -> bool:
    return tensor.data_location != 0 or len(tensor.external_data) > 0


def _check_shapes(graph: Any, card: ModelCard, path: Path) -> None:
    """Raise if the input or output of a graph differs from that of its card."""
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initializers]
    for name, dtype, values in ((INPUT, "UINT8", inputs), (OUTPUT, "FLOAT", graph.output)):
        expected: dict[str, TensorSpec] = {name: (dtype, *expected_shapes(card)[name])}
        check_tensors({value.name: _tensor_spec(value) for value in values}, expected, path)


def _tensor_spec(value: Any) -> TensorSpec:
    """Return the element type and the shape without the batch; -1 for a dimension that is not fixed."""
    tensor = value.type.tensor_type
    names = optional_packages.onnx().TensorProto.DataType
    dtype = names.Name(tensor.elem_type) if tensor.elem_type in names.values() else str(tensor.elem_type)
    batch, *sides = [side.dim_value if side.HasField("dim_value") else -1 for side in tensor.shape.dim] or [0]
    return (dtype, *sides) if batch == -1 else (dtype, 0, *sides)
