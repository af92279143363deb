"""An exported `.pt2`: what `torch.export.save` writes, without its pickle. Its weights are read, its program never is.

A program is code: `torch.export.load` hands expressions in it to `eval` and falls back to full unpickling. So whoever
trusts a file may run it with PyTorch, and here its weights go into the network that its card describes.
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
    foreign_file_error,
    parse_metadata,
)
from resnetlab.models.model_card import ModelCard

if TYPE_CHECKING:
    from torch.export import ExportedProgram

MARK = f"{checksum.NAME}=".encode()
"""Before the seal, in the archive's comment."""
WEIGHTS = "data/weights/"
WEIGHTS_LIST, CONSTANTS_LIST = f"{WEIGHTS}model_weights_config.json", "data/constants/model_constants_config.json"
PROGRAM = "models/model.json"
TEXT, SAMPLES = f"extra/{KEY}", "data/sample_inputs/model.pt"
OTHERS = (
    PROGRAM,
    "archive_format",
    "archive_version",
    "byteorder",
    ".data/version",
    ".data/serialization_id",
)
FLOAT32 = 7
"""PyTorch's number of the type in such an archive."""


def encode(program: "ExportedProgram", text: str) -> bytes:
    """Return the archive of a program that has no sample inputs, with a text."""
    import torch

    buffer = BytesIO()
    torch.export.save(program, buffer, extra_files={KEY: text})
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = MARK + checksum.OPEN.encode()
    return checksum.embed_checksum(buffer.getvalue(), MARK)


def read(path: Path, content: bytes) -> tuple[ModelCard, ExportMetadata]:
    """Read what a file says of itself, after everything that could make it unsafe or wrong was looked for.

    Raises:
        ArtefactError: where anything was found.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            names = _names(archive, path, len(content))
            if TEXT not in names:
                raise foreign_file_error(path, "a zip archive, perhaps a program of torch.export", "torch-export")
            _refuse(archive, names, path)
            if not checksum.verify_checksum(content, MARK):
                raise ExportedFileError(
                    f"{path}: damaged, or changed since it was exported (its SHA-256 differs); export it again"
                )
            card, passport = parse_metadata(archive.read(names[TEXT]).decode(), path, "torch-export")
            _listed(archive, names, path)
            _compare_shapes(json.loads(archive.read(names[PROGRAM])), card, path)
    except ExportedFileError:
        raise
    except Exception as error:  # zipfile has a kind of error for each kind of damage, and lets others through
        raise _damaged(path, error) from error
    return card, passport


def read_weights(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """Return the float32 weights of a file that was `read`, by the names that the network gives them.

    Raises:
        ArtefactError: where the archive's list of them does not fit what it has.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            names = _names(archive, path, len(content))
            return {
                name: _array(archive.read(names[WEIGHTS + one["path_name"]]), one["tensor_meta"])
                for name, one in _listed(archive, names, path).items()
            }
    except ExportedFileError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error


def _names(archive: zipfile.ZipFile, path: Path, num_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Return what is in the archive, without the folder that everything is in."""
    entries = archive.infolist()
    if any(one.compress_type != zipfile.ZIP_STORED for one in entries) or sum(e.file_size for e in entries) > num_bytes:
        raise ExportedFileError(
            f"{path}: holds more than its {num_bytes:,} bytes (compressed); torch.export compresses nothing"
        )
    names = {one.filename.partition("/")[2]: one for one in entries}
    if len(names) < len(entries):
        raise ExportedFileError(f"{path}: holds two files of one name; export it again")
    return names


def _refuse(archive: zipfile.ZipFile, names: dict[str, zipfile.ZipInfo], path: Path) -> None:
    """Refuse what no export of ours has: pickles, and whatever else is not known."""
    if names[SAMPLES].file_size:
        raise ExportedFileError(
            f"{path}: holds sample inputs, which are a pickle, and unpickling may run code; "
            "an export of resnetlab has none"
        )
    for name in names:
        known = name in (WEIGHTS_LIST, CONSTANTS_LIST, TEXT, SAMPLES, *OTHERS)
        if not known and not (
            name.startswith(f"{WEIGHTS}weight_") and name.removeprefix(f"{WEIGHTS}weight_").isdecimal()
        ):
            raise ExportedFileError(f"{path}: holds {name[:80]!r}, which no export of resnetlab has")
    if json.loads(archive.read(names[CONSTANTS_LIST]))["config"]:
        raise ExportedFileError(f"{path}: holds constants beside the weights, which no export of resnetlab has")
    if archive.read(names["byteorder"]) != b"little":
        raise ExportedFileError(f"{path}: has its numbers in an order of bytes that is not little-endian")


def _listed(archive: zipfile.ZipFile, names: dict[str, zipfile.ZipInfo], path: Path) -> dict[str, Any]:
    """Return the archive's list of its weights, by name."""
    listed = json.loads(archive.read(names[WEIGHTS_LIST]))["config"]
    for name, one in listed.items():
        if one["use_pickle"]:
            raise ExportedFileError(f"{path}: has {name[:80]} as a pickle, and unpickling may run code")
    return listed


def _compare_shapes(says: dict[str, Any], card: ModelCard, path: Path) -> None:
    """Refuse a program that takes or gives something else than its card says."""
    graph = says["graph_module"]["graph"]
    names = {INPUT: graph["inputs"][-1]["as_tensor"]["name"], OUTPUT: graph["outputs"][0]["as_tensor"]["name"]}
    for end, name in names.items():
        batch, *sides = graph["tensor_values"][name]["sizes"]
        found, wanted = tuple(side.get("as_int") for side in sides), expected_shapes(card)[end]
        if found != wanted or "as_int" in batch:
            raise ExportedFileError(
                f"{path}: its program has {end} of {found}, and its card says (batch, {', '.join(map(str, wanted))}); "
                "export it again"
            )


def _array(content: bytes, meta: dict[str, Any]) -> np.ndarray:
    """Return a tensor that fills its file, in the order of its strides."""
    shape, strides = ([one["as_int"] for one in meta[key]] for key in ("sizes", "strides"))
    if meta["dtype"] != FLOAT32 or meta["storage_offset"]["as_int"] != 0:
        raise ValueError(f"a tensor of type {meta['dtype']}, and not float32")
    values = np.frombuffer(content, "<f4")
    order = sorted(range(len(shape)), key=lambda axis: -strides[axis])  # channels last in memory, or first
    packed = values.reshape([shape[axis] for axis in order])
    if [one // 4 for one in packed.strides] != [strides[axis] for axis in order]:
        raise ValueError("a tensor with gaps")
    return np.ascontiguousarray(packed.transpose(np.argsort(order)))


def _damaged(path: Path, error: Exception) -> ExportedFileError:
    what = f"{error} is missing" if isinstance(error, KeyError) else str(error).split("\n")[0][:120]
    return ExportedFileError(f"{path}: not an archive of torch.export, or a damaged one ({what})")
