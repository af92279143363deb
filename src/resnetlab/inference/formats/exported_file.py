"""Exported files: which file is one, and what it says of itself, after it was looked at and before it is opened."""

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
from resnetlab.models.model_card import ModelCard

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
"""A format by the suffix of its file; OpenVINO's weights stand in the `.bin` beside the `.xml`."""


@dataclass(frozen=True)
class ExportedFile:
    """An exported file."""

    path: Path
    card: ModelCard
    metadata: ExportMetadata

    @property
    def files(self) -> tuple[Path, ...]:
        """What it consists of."""
        return (self.path, openvino_ir.weights_file(self.path)) if self.metadata.format == "openvino" else (self.path,)


def is_exported_file(path: Path | str) -> bool:
    """Say whether a path means an exported file, whatever state it is in; its suffix says it."""
    path = Path(path)
    is_weights = (
        path.suffix == ".bin" and path.with_suffix(".xml").exists()
    )  # `read_exported_file` says what to name instead
    return (path.suffix.lower() in SUFFIXES or is_weights) and not path.is_dir()


def read_exported_file(path: Path | str) -> ExportedFile:
    """Read what an exported file says of itself; neither PyTorch nor the runtime that will compute it is loaded.

    What it says is believed only where the file is whole: each has the SHA-256 of itself. That shows damage; who wrote
    a file it does not show.

    Raises:
        ArtefactError: for a file that is missing, damaged, no export of this project, larger than 1 GiB, or that has
            anything which an export of this project has not: other files, pickles, operators or graphs of others.
        ConfigError: for `.onnx` where the package onnx is not installed.
    """
    path = Path(path)
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None and is_exported_file(path):
        raise ExportedFileError(f"{path}: the weights of an OpenVINO export; name {path.with_suffix('.xml').name}")
    if kind is None:
        raise ExportedFileError(f"{path}: no export, whose names end in {', '.join(SUFFIXES)}")
    try:
        if kind == "openvino":
            beside = openvino_ir.weights_file(path)
            num_bytes = _length(path)
            num_bytes_beside = _length(beside, f"{path.name} has its weights there")
            _check_length(path, num_bytes + num_bytes_beside)
            card, says = openvino_ir.read(path, path.read_bytes(), num_bytes_beside)
        else:
            _check_length(path, _length(path))
            card, says = (onnx_file if kind == "onnx" else torch_program).read(path, path.read_bytes())
    except OSError as error:
        raise ExportedFileError(f"{path}: cannot be read ({error.strerror or error})") from error
    return ExportedFile(path, card, says)


def _length(path: Path, why: str = "") -> int:
    """Return how many bytes a file has, if it is one."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise ExportedFileError(f"{path}: no such file{f'; {why}' if why else ''}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ExportedFileError(f"{path}: not a plain file")
    return status.st_size


def _check_length(path: Path, num_bytes: int) -> None:
    if num_bytes == 0:
        raise ExportedFileError(f"{path}: an empty file")
    if num_bytes > metadata.MAX_BYTES:
        raise ExportedFileError(f"{path}: has {num_bytes:,} bytes, and no more than {metadata.MAX_BYTES:,} are opened")
