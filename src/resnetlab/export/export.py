"""Export of a model file to another format; the file is written only if its logits agree with the source."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from resnetlab.config import ConfigError
from resnetlab.export.verify import (
    BATCH_SIZES,
    ExportMismatchError,
    VerificationSet,
    build_verification_set,
    compare_logits,
    open_exported,
    with_int8_reference,
)
from resnetlab.inference import optional_packages
from resnetlab.inference.formats import onnx_file, openvino_ir, torch_program
from resnetlab.inference.formats.exported_file import (
    SUFFIXES,
    Agreement,
    ExportedFile,
    ExportMetadata,
    Format,
    is_exported_file,
    read_exported_file,
)
from resnetlab.inference.formats.metadata import encode_metadata
from resnetlab.inference.formats.onnx_graph import export_program, onnx_model
from resnetlab.inference.probe_images import probe_photographs
from resnetlab.models.model_card import ModelCard, find_model_file
from resnetlab.models.model_file import load_model
from resnetlab.models.resnet import ResNet

if TYPE_CHECKING:
    from onnx import ModelProto

Quantizer = Callable[["ModelProto", ModelCard, ResNet], tuple["ModelProto", dict[str, Any]]]
"""Returns the int8 graph of an fp32 graph, and its metadata (`ExportMetadata.int8`)."""
FileWriter = Callable[[Path, str], None]
"""Writes a network with its metadata text to one file, or to two for OpenVINO."""


def export(
    source: Path | str,
    out: Path,
    kind: Format,
    *,
    images: np.ndarray | None = None,
    quantizer: Quantizer | None = None,
) -> ExportedFile:
    """Export a model file, and verify the result in the runtime of its format.

    Args:
        source: A model file, or a run directory.
        out: The file to write; an existing file is replaced. For OpenVINO an `.xml`; its weights go to a `.bin`
            beside it.
        kind: The format.
        images: Real images for the comparison of logits, uint8 (batch, height, width, channels); some
            photographs if not given. Random images are always added.
        quantizer: Converts the graph to int8; fp32 if not given.

    Returns:
        The exported file with its metadata.

    Raises:
        ModelFileError: if `source` is not a model file.
        ConfigError: if a package is missing, or an unrelated file would be overwritten.
        ExportMismatchError: if logits differ by more than the tolerance; nothing is written.
        OSError: if the folder is not writable.
    """
    _check_arguments(source, out, kind, quantizer)
    path = find_model_file(source)
    model, card = load_model(path)
    if images is None:
        images = probe_photographs(card.preprocessing, BATCH_SIZES[-1])
    verification_set = build_verification_set(model, card.preprocessing, images)
    write, int8, read_int8_graph = _convert(model, card, kind, quantizer)
    if read_int8_graph is not None:
        verification_set = with_int8_reference(verification_set, read_int8_graph)
    metadata = ExportMetadata(
        format=kind,
        precision="fp32" if read_int8_graph is None else "int8",
        agreement=Agreement(max_difference=0.0, tolerance=None, by_batch={}, top1_agreement_pct=0.0, num_images=0),
        source_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        versions=optional_packages.versions(),
        int8=int8,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        draft = _ExportDraft(Path(folder) / out.name, card, verification_set, write)
        metadata = replace(metadata, agreement=draft.write_and_verify(metadata))
        draft.write_and_verify(metadata)  # verifies the final file, which contains the agreement
        for file in sorted(Path(folder).iterdir()):  # the `.bin` first: an `.xml` without its weights never exists
            _sync(file)
            file.replace(out.parent / file.name)
    return ExportedFile(out, card, metadata)


@dataclass(frozen=True)
class _ExportDraft:
    """An export in a temporary folder, before it replaces the output file."""

    path: Path
    card: ModelCard
    verification_set: VerificationSet
    write: FileWriter

    def write_and_verify(self, metadata: ExportMetadata) -> Agreement:
        """Write the file, read it back, and compare metadata and logits."""
        text = encode_metadata(self.card, metadata)
        self.write(self.path, text)
        stored = read_exported_file(self.path)
        if encode_metadata(stored.card, stored.metadata) != text:
            raise ExportMismatchError(f"{self.path.name} is not written: its stored metadata differ from the model's")
        try:
            logits = open_exported(self.path, metadata.format, metadata.precision)
            return compare_logits(self.verification_set, logits)
        except ExportMismatchError as error:
            raise ExportMismatchError(f"{self.path.name} is not written: {error}") from error


def _convert(
    model: ResNet, card: ModelCard, kind: Format, quantizer: Quantizer | None
) -> tuple[FileWriter, dict[str, Any], Callable[[], bytes] | None]:
    """Convert the network; return a function that writes it, and for int8 its metadata and a reader of the graph."""
    if kind == "torch-export":
        program = export_program(model, card.preprocessing)
        return lambda path, text: _write(path, torch_program.encode(program, text)), {}, None
    graph, int8 = onnx_model(model, card.preprocessing), {}
    if quantizer is not None:
        graph, int8 = quantizer(graph, card, model)

    def write(path: Path, text: str) -> None:
        if kind == "onnx":
            _write(path, onnx_file.encode(graph, text))
        else:
            xml, weights = openvino_ir.encode(graph.SerializeToString(), text)
            _write(openvino_ir.weights_file(path), weights)
            _write(path, xml)

    return write, int8, None if quantizer is None else graph.SerializeToString


def _check_arguments(source: Path | str, out: Path, kind: Format, quantizer: Quantizer | None) -> None:
    """Raise a `ConfigError` for mistakes that are visible without the network."""
    if is_exported_file(source):
        raise ConfigError(f"{source} is already an exported file; export its source model file")
    if SUFFIXES.get(out.suffix.lower()) != kind:
        suffix = next(suffix for suffix, other in SUFFIXES.items() if other == kind)
        raise ConfigError(f"{out}: files of the format {kind} end in {suffix}")
    if quantizer is not None and kind == "torch-export":
        raise ConfigError("int8 is only for onnx and openvino; torch-export has fp32")
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name a file")
    if kind != "torch-export":
        optional_packages.require("onnxruntime" if kind == "onnx" else "openvino")
    weights = openvino_ir.weights_file(out)
    if kind == "openvino" and weights.exists() and not out.exists():
        raise ConfigError(f"{weights} exists, and the weights of {out.name} would overwrite it; choose another name")


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _sync(path: Path) -> None:
    """Flush a file to disk before it replaces another."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
