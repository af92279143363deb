"""Exported `.pt2` archives of `torch.export.save` without pickles. Their weights are read, their program never is.

A program is code: `torch.export.load` passes its expressions to `eval` and falls back to full unpickling. Users who
trust a file may run it with PyTorch. Here its weights are loaded into the network that its card describes.
"""

import json
import zipfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnetlab.inference.formats import checksum
from resnetlab.inference.formats.metadata import (
    INPUT,
    KEY,
    OUTPUT,
    ExportedFileError,
    ExportMetadata,
    expected_shapes,
    not_exported_error,
    parse_metadata,
)
from resnetlab.models.model_card import ModelCard

if TYPE_CHECKING:
    from torch.export import ExportedProgram

MARKER = f"{checksum.NAME}=".encode()
"""The text before the checksum, in the archive's comment."""
WEIGHTS = "data/weights/"
WEIGHTS_LIST, CONSTANTS_LIST = f"{WEIGHTS}model_weights_config.json", "data/constants/model_constants_config.json"
PROGRAM = "models/model.json"
TEXT, SAMPLES = f"extra/{KEY}", "data/sample_inputs/model.pt"
OTHER_FILES = (
    PROGRAM,
    "archive_format",
    "archive_version",
    "byteorder",
    ".data/version",
    ".data/serialization_id",
)
FLOAT32 = 7
"""The number of float32 in such an archive."""


def encode(program: "ExportedProgram", text: str) -> bytes:
    """Return the archive of a program without sample inputs, with a metadata text."""
    import torch

    buffer = BytesIO()
    torch.export.save(program, buffer, extra_files={KEY: text})
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = MARKER + checksum.PLACEHOLDER.encode()
    return checksum.embed_checksum(buffer.getvalue(), MARKER)


def read(path: Path, content: bytes) -> tuple[ModelCard, ExportMetadata]:
    """Check that an archive is safe and complete, and return its card and metadata.

    Raises:
        ExportedFileError: A check failed.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            entries = _entries(archive, path, len(content))
            if TEXT not in entries:
                raise not_exported_error(path, "a zip archive, perhaps a program of torch.export", "torch-export")
            _check_safe(archive, entries, path)
            if not checksum.verify_checksum(content, MARKER):
                raise ExportedFileError(
                    f"{path}: damaged, or changed since it was exported (its SHA-256 differs); export it again"
                )
            card, metadata = parse_metadata(archive.read(entries[TEXT]).decode(), path, "torch-export")
            _weight_entries(archive, entries, path)
            _check_shapes(json.loads(archive.read(entries[PROGRAM])), card, path)
    except ExportedFileError:
        raise
    except Exception as error:  # zipfile raises many types, and lets those of other modules through
        raise _damaged(path, error) from error
    return card, metadata


def read_weights(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """Return the float32 weights of an archive that `read` accepted, by their names in the state dict.

    Raises:
        ExportedFileError: The archive's list of weights does not match its content.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            entries = _entries(archive, path, len(content))
            return {
                name: _to_array(archive.read(entries[WEIGHTS + weight["path_name"]]), weight["tensor_meta"])
                for name, weight in _weight_entries(archive, entries, path).items()
            }
    except ExportedFileError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error


def _entries(archive: zipfile.ZipFile, path: Path, num_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Return the archive's entries by name, without the top-level folder."""
    infos = archive.infolist()
    compressed = any(info.compress_type != zipfile.ZIP_STORED for info in infos)
    if compressed or sum(info.file_size for info in infos) > num_bytes:
        raise ExportedFileError(
            f"{path}: holds more than its {num_bytes:,} bytes (compressed); torch.export does not compress"
        )
    entries = {info.filename.partition("/")[2]: info for info in infos}
    if len(entries) < len(infos):
        raise ExportedFileError(f"{path}: holds two files of one name; export it again")
    return entries


def _check_safe(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], path: Path) -> None:
    """Raise if an archive has what no export of resnetlab has: pickles, and any unknown file."""
    if entries[SAMPLES].file_size:
        raise ExportedFileError(
            f"{path}: holds sample inputs, which are a pickle, and unpickling may run code; "
            "an export of resnetlab has none"
        )
    for name in entries:
        known = name in (WEIGHTS_LIST, CONSTANTS_LIST, TEXT, SAMPLES, *OTHER_FILES)
        if not known and not (
            name.startswith(f"{WEIGHTS}weight_") and name.removeprefix(f"{WEIGHTS}weight_").isdecimal()
        ):
            raise ExportedFileError(f"{path}: holds {name[:80]!r}, which no export of resnetlab has")
    if json.loads(archive.read(entries[CONSTANTS_LIST]))["config"]:
        raise ExportedFileError(f"{path}: holds constants beside the weights, which no export of resnetlab has")
    if archive.read(entries["byteorder"]) != b"little":
        raise ExportedFileError(f"{path}: its byte order is not little-endian")


def _weight_entries(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], path: Path) -> dict[str, Any]:
    """Return the archive's list of its weights, by name."""
    weights = json.loads(archive.read(entries[WEIGHTS_LIST]))["config"]
    for name, weight in weights.items():
        if weight["use_pickle"]:
            raise ExportedFileError(f"{path}: has {name[:80]} as a pickle, and unpickling may run code")
    return weights


def _check_shapes(program: dict[str, Any], card: ModelCard, path: Path) -> None:
    """Raise if the input or output of a program differs from that of its card."""
    graph = program["graph_module"]["graph"]
    names = {INPUT: graph["inputs"][-1]["as_tensor"]["name"], OUTPUT: graph["outputs"][0]["as_tensor"]["name"]}
    for role, name in names.items():
        batch, *sides = graph["tensor_values"][name]["sizes"]
        found, expected = tuple(side.get("as_int") for side in sides), expected_shapes(card)[role]
        if found != expected or "as_int" in batch:
            raise ExportedFileError(
                f"{path}: its program has {role} of {found}, "
                f"but its card has (batch, {', '.join(map(str, expected))}); export it again"
            )


def _to_array(content: bytes, meta: dict[str, Any]) -> np.ndarray:
    """Return a contiguous array of a tensor that fills its file in the order of its strides."""
    shape, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
    if meta["dtype"] != FLOAT32 or meta["storage_offset"]["as_int"] != 0:
        raise ValueError(f"a tensor of type {meta['dtype']}, and not float32")
    values = np.frombuffer(content, "<f4")
    order = sorted(range(len(shape)), key=lambda axis: -strides[axis])  # channels first or last in memory
    packed = values.reshape([shape[axis] for axis in order])
    if [stride // 4 for stride in packed.strides] != [strides[axis] for axis in order]:
        raise ValueError("a tensor with gaps")
    return np.ascontiguousarray(packed.transpose(np.argsort(order)))


def _damaged(path: Path, error: Exception) -> ExportedFileError:
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).split("\n")[0][:120]
    return ExportedFileError(f"{path}: not an archive of torch.export, or a damaged one ({reason})")
