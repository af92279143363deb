"""From a model file to an exported file that has proved itself: nothing is written that does not agree."""

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
    BATCHES,
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

Quantise = Callable[["ModelProto", ModelCard, ResNet], tuple["ModelProto", dict[str, Any]]]
"""A graph → the same in int8, and what is to be said of that (`Passport.int8`)."""
Write = Callable[[Path, str], None]
"""Writes a network with a text as a file, or two."""


def export(
    source: Path | str,
    out: Path,
    kind: Format,
    *,
    pictures: np.ndarray | None = None,
    quantise: Quantise | None = None,
) -> ExportedFile:
    """Export a model file, and prove that the result agrees with it, in the runtime that it is for.

    Args:
        source: A model file, or a run directory.
        out: The file to write, which is replaced if it is there. For OpenVINO an `.xml`, whose weights go into a `.bin`
            beside it.
        kind: The format.
        pictures: Real images to compare on, as the network sees them: uint8 (number, image_size, image_size, channels);
            some photographs if not given. Random ones come on top.
        quantise: Makes int8 of it.

    Raises:
        ModelFileError: for what is no model file.
        ConfigError: where a package is missing, or a file would be overwritten that is none of ours.
        DisagreementError: where logits differ by more than the tolerance; then nothing was written.
        OSError: where the folder cannot be written.
    """
    _check(source, out, kind, quantise)
    path = find_model_file(source)
    model, card = load_model(path)
    seen = probe_photographs(card.preprocessing, BATCHES[-1]) if pictures is None else pictures
    asked = build_verification_set(model, card.preprocessing, seen)
    write, int8, graph = _writer(model, card, kind, quantise)
    if graph is not None:
        asked = with_int8_reference(asked, graph)
    says = ExportMetadata(
        format=kind,
        precision="fp32" if graph is None else "int8",
        agreement=Agreement(0.0, None, {}, 0.0, 0),
        source_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        versions=optional_packages.versions(),
        int8=int8,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        draft = _ExportDraft(Path(folder) / out.name, card, asked, write)
        says = replace(says, agreement=draft.proved(says))
        draft.proved(says)  # once more, now that it says how well it agrees: this is the file that stays
        for made in sorted(Path(folder).iterdir()):  # the `.bin` first: an `.xml` is never there without its own
            _sync(made)
            made.replace(out.parent / made.name)
    return ExportedFile(out, card, says)


@dataclass(frozen=True)
class _ExportDraft:
    """A file in a folder of its own that is not yet where it belongs."""

    path: Path
    card: ModelCard
    asked: VerificationSet
    write: Write

    def proved(self, says: ExportMetadata) -> Agreement:
        """Write the file, open what was written, and compare."""
        text = encode_metadata(self.card, says)
        self.write(self.path, text)
        read = read_exported_file(self.path)
        if encode_metadata(read.card, read.metadata) != text:
            raise ExportMismatchError(f"{self.path.name} is not written: it would not say what was to be said in it")
        try:
            return compare_logits(self.asked, open_exported(self.path, says.format, says.precision))
        except ExportMismatchError as error:
            raise ExportMismatchError(f"{self.path.name} is not written: {error}") from error


def _writer(
    model: ResNet, card: ModelCard, kind: Format, quantise: Quantise | None
) -> tuple[Write, dict[str, Any], Callable[[], bytes] | None]:
    """Make the graph; return what writes it, and of int8 what is to be said and the graph itself."""
    if kind == "torch-export":
        made = export_program(model, card.preprocessing)
        return lambda path, text: _write(path, torch_program.encode(made, text)), {}, None
    graph, int8 = onnx_model(model, card.preprocessing), {}
    if quantise is not None:
        graph, int8 = quantise(graph, card, model)

    def write(path: Path, text: str) -> None:
        if kind == "onnx":
            _write(path, onnx_file.encode(graph, text))
        else:
            xml, weights = openvino_ir.encode(graph.SerializeToString(), text)
            _write(openvino_ir.weights_file(path), weights)
            _write(path, xml)

    return write, int8, None if quantise is None else graph.SerializeToString


def _check(source: Path | str, out: Path, kind: Format, quantise: Quantise | None) -> None:
    """Find what is wrong and needs no network to be found."""
    if is_exported_file(source):
        raise ConfigError(f"{source} is an export itself; export the model file that it was made of")
    if SUFFIXES.get(out.suffix.lower()) != kind:
        suffix = next(suffix for suffix, other in SUFFIXES.items() if other == kind)
        raise ConfigError(f"{out}: the format {kind} is written to a file that ends in {suffix}")
    if quantise is not None and kind == "torch-export":
        raise ConfigError("int8 is for onnx and openvino; torch-export has fp32 alone")
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name a file")
    if kind != "torch-export":
        optional_packages.require("onnxruntime" if kind == "onnx" else "openvino")
    weights = openvino_ir.weights_file(out)
    if kind == "openvino" and weights.exists() and not out.exists():
        raise ConfigError(
            f"{weights} is there, and the weights of {out.name} would take its place; choose another name"
        )


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _sync(path: Path) -> None:
    """Have a file on the disk before it takes the place of another."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
