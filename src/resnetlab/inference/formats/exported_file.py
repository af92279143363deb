"""Reading of exported files: detection of their format, checks before any runtime opens them, and their metadata."""

import stat
from dataclasses import dataclass
from pathlib import Path

from resnetlab.inference.formats import metadata, onnx_file, openvino_ir, torch_program
from resnetlab.inference.formats.metadata import (
    INPUT,
    KEY,
    OUTPUT,
    Agreement,
    ExportedFileError,
    ExportMetadata,
    Format,
)
from resnetlab.models.model_card import MODEL_FILE, ModelCard
from resnetlab.models.similar_paths import suggest_path

__all__ = [
    "ExportedFile",
    "ExportedFileError",
    "Agreement",
    "ExportMetadata",
    "Format",
    "INPUT",
    "OUTPUT",
    "KEY",
    "SUFFIXES",
    "is_exported_file",
    "read_exported_file",
]

SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch-export"}
"""The format of each suffix. OpenVINO stores its weights in the `.bin` beside the `.xml`."""


@dataclass(frozen=True)
class ExportedFile:
    """An exported file with its model card and metadata."""

    path: Path
    card: ModelCard
    metadata: ExportMetadata

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the export; two for OpenVINO."""
        return (self.path, openvino_ir.weights_file(self.path)) if self.metadata.format == "openvino" else (self.path,)


def is_exported_file(path: Path | str) -> bool:
    """Return whether a path has the suffix of an exported file. The file may be missing or damaged."""
    path = Path(path)
    # For the weights of an OpenVINO export, `read_exported_file` raises an error that names the right file.
    is_weights = path.suffix == ".bin" and path.with_suffix(".xml").exists()
    return (path.suffix.lower() in SUFFIXES or is_weights) and not path.is_dir()


def read_exported_file(path: Path | str) -> ExportedFile:
    """Read the card and the metadata of an exported file, without PyTorch and without the runtime that computes it.

    The file must match its embedded SHA-256. That detects damage; it does not prove who wrote the file.

    Raises:
        ExportedFileError: The file is missing, damaged, not exported by resnetlab, or larger than 1 GiB; or it contains
            what no export of resnetlab contains: external files, pickles, custom operators or nested graphs.
        ConfigError: The file is ONNX and the package onnx is not installed.
    """
    path = Path(path)
    file_format = SUFFIXES.get(path.suffix.lower())
    if file_format is None and is_exported_file(path):
        raise ExportedFileError(f"{path}: the weights of an OpenVINO export; name {path.with_suffix('.xml').name}")
    if file_format is None:
        raise ExportedFileError(f"{path}: not an exported file; their names end in {', '.join(SUFFIXES)}")
    try:
        if file_format == "openvino":
            weights = openvino_ir.weights_file(path)
            num_bytes = _file_size(path)
            num_weight_bytes = _file_size(weights, f"{path.name} has its weights there")
            _check_size(path, num_bytes + num_weight_bytes)
            card, export_metadata = openvino_ir.read(path, path.read_bytes(), num_weight_bytes)
        else:
            _check_size(path, _file_size(path))
            module = onnx_file if file_format == "onnx" else torch_program
            card, export_metadata = module.read(path, path.read_bytes())
    except OSError as error:
        raise ExportedFileError(f"{path}: cannot be read ({error.strerror or error})") from error
    return ExportedFile(path, card, export_metadata)


def _file_size(path: Path, note: str = "") -> int:
    """Return the size of a regular file in bytes. The `note` is appended to the error for a missing file."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        hint = f"; {note}" if note else suggest_path(path, MODEL_FILE)
        raise ExportedFileError(f"{path}: no such file{hint}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ExportedFileError(f"{path}: not a regular file")
    return status.st_size


def _check_size(path: Path, num_bytes: int) -> None:
    if num_bytes == 0:
        raise ExportedFileError(f"{path}: an empty file")
    if num_bytes > metadata.MAX_BYTES:
        raise ExportedFileError(f"{path}: has {num_bytes:,} bytes; the limit is {metadata.MAX_BYTES:,}")
