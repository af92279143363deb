"""Read the tensors of a file of weights without executing its content; files of other objects are refused."""

import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from resnetlab.models.model_card import ModelFileError, check_seal, find_model_file

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params")
"""Keys under which checkpoints store the weights, the likeliest first."""
OPTIMISER_KEYS = re.compile(r"optim|momentum|velocity|exp_avg|grad|adam|sgd", re.IGNORECASE)
"""Keys under which optimisers store tensors of the same shapes, which are no weights."""
MAX_METADATA, MAX_METADATA_LENGTH = 12, 80
"""Most values beside the weights that are read (an epoch, an accuracy, a name), and most characters of each."""
FILE_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself; fetch it with: git lfs pull"),
    (b"<", "a web page or XML; the download went wrong"),
    (b"\x1f\x8b", "gzip; unpack it first"),
    (b"\x89HDF", "HDF5, as Keras writes it; only safetensors and PyTorch files are read"),
    (b"\x93NUMPY", "a NumPy array; only safetensors and PyTorch files are read"),
)


@dataclass(frozen=True)
class WeightsFile:
    """The content of a file of weights."""

    tensors: Mapping[str, Tensor]
    """On the CPU, as stored in the file; do not write to them."""
    in_order: bool
    """Whether the file stores the order of the state dict; safetensors sorts it."""
    container: str
    """The kind of file, in words."""
    wrapper: str = ""
    """The keys around the state dict, joined by dots; empty if the state dict is the whole content."""
    metadata: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """The values beside the weights, or in the safetensors metadata."""
    other_state_dicts: tuple[str, ...] = ()
    """Keys of other state dicts in the file, which were not read."""


def read_weights(path: Path | str) -> WeightsFile:
    """Read safetensors, or a `torch.save` file (with `weights_only=True`); of a folder, its model.safetensors.

    Raises:
        ModelFileError: for any other file; the message names the file and its kind as far as it can be determined.
    """
    path = find_model_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
    if start.startswith(b"PK\x03\x04"):
        _check_archive(path)
        return _read_torch(path, mmap=True)
    if start.startswith(b"\x80") and start[8:9] != b"{":
        return _read_torch(path, mmap=False)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    raise ModelFileError(f"{path}: {_identify(start)}")


def _read_safetensors(path: Path) -> WeightsFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            values = file.metadata() or {}
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path}: cannot be read as safetensors ({error})") from error
    check_seal(path, values)
    metadata = {key: value for key, value in values.items() if key != "format" and len(value) <= MAX_METADATA_LENGTH}
    return WeightsFile(tensors, in_order=False, container="safetensors", metadata=metadata)


def _read_torch(path: Path, *, mmap: bool) -> WeightsFile:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations of old files
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged pickle can raise any exception
        raise ModelFileError(f"{path}: {_explain_load_error(str(error))}") from error
    found = _find_state_dict(content)
    if found is None:
        raise ModelFileError(f"{path}: a PyTorch file with {_describe(content)}, and no state dict: tensors by name")
    wrapper, tensors = found
    beside = content
    for name in wrapper[:-1]:
        beside = beside[name]
    metadata, other_state_dicts = {}, []
    if wrapper:
        for key, value in beside.items():
            short = isinstance(value, str | int | float) and len(str(value)) <= MAX_METADATA_LENGTH
            if short and len(metadata) < MAX_METADATA:
                metadata[str(key)] = value
            elif key != wrapper[-1] and isinstance(value, Mapping) and _named_tensors(value):
                other_state_dicts.append(str(key))
    return WeightsFile(
        tensors,
        in_order=True,
        container="a PyTorch checkpoint",
        wrapper=".".join(wrapper),
        metadata=metadata,
        other_state_dicts=tuple(other_state_dicts),
    )


def _find_state_dict(content: object, depth: int = 0) -> tuple[tuple[str, ...], dict[str, Tensor]] | None:
    """Return a state dict and the keys around it, searched under the usual keys, then any key, then in `content`."""
    if not isinstance(content, Mapping) or depth > 3:
        return None
    names = [name for name, value in content.items() if isinstance(name, str) and isinstance(value, Mapping)]
    for name in sorted(names, key=_search_rank):
        found = _find_state_dict(content[name], depth + 1)
        if found is not None:
            return (name, *found[0]), found[1]
    tensors = _named_tensors(content)
    return ((), tensors) if any(tensor.dim() > 1 for tensor in tensors.values()) else None


def _search_rank(name: str) -> int:
    """Return the rank at which a key is searched; the keys of optimisers are last."""
    if name in WRAPPERS:
        return WRAPPERS.index(name)
    return len(WRAPPERS) + bool(OPTIMISER_KEYS.search(name))


def _named_tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: value.detach() for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _check_archive(path: Path) -> None:
    """Refuse a zip archive that is damaged, compressed, or not from `torch.save`.

    Raises:
        ModelFileError: naming the kind of archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelFileError(f"{path}: a damaged or unfinished PyTorch file ({error})") from error
    names = [entry.filename for entry in entries]
    if not any(name.endswith("/data.pkl") for name in names):
        raise ModelFileError(f"{path}: a zip archive, but not from torch.save (it has no data.pkl); unpack it")
    if any("/code/" in name for name in names):
        raise ModelFileError(f"{path}: a TorchScript program, which is not executed; save the network's state_dict()")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ModelFileError(f"{path}: a compressed zip archive, and torch.save compresses nothing; save it again")
    corrupt = _corrupt_record(path) if any(entry.CRC for entry in entries) else None  # torch.save may write 0 for all
    if corrupt is not None:
        raise ModelFileError(
            f"{path}: a damaged PyTorch file (wrong checksum of its record {corrupt}); copy or download it again"
        )


def _corrupt_record(path: Path) -> str | None:
    """Return the first record with a wrong checksum, which `torch.load` does not check; `None` if all are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise ModelFileError(f"{path}: a damaged or unfinished PyTorch file ({error})") from error


def _explain_load_error(message: str) -> str:
    """Return one line on why `torch.load` refused a file."""
    name = re.search(r"GLOBAL ([\w.]+)", message)
    if name is not None or re.search(r"Trying to|Can only", message):
        kind = f"objects such as {name[1]}" if name else "objects"
        return (
            f"refused: it contains {kind} beside tensors, and reading those can execute any code of the file's author; "
            "if you trust the file, save its state_dict() alone and inspect that"
        )
    if "Unsupported operand" in message or "magic number" in message:
        return "a pickle, but not from torch.save, or damaged"
    detail = message.rpartition("WeightsUnpickler error:")[2].strip()  # without PyTorch's advice before it
    first_line = " ".join(detail.split("\n")[0].split()) or "no detail is known"
    return f"a damaged or unfinished PyTorch file ({first_line[:120]})"


def _identify(start: bytes) -> str:
    """Return the kind of a file that is not read, from its first bytes."""
    if not start:
        return "an empty file"
    known = next((kind for signature, kind in FILE_SIGNATURES if start.startswith(signature)), None)
    if known is not None:
        return known
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it and give the file of weights inside"
    try:
        start.decode()
    except UnicodeDecodeError:
        return "neither safetensors nor a PyTorch file, or a damaged one"
    return "neither safetensors nor a PyTorch file; it looks like text" if b"\0" not in start else "no file of weights"


def _describe(content: object) -> str:
    if isinstance(content, Tensor):
        return "one tensor"
    if isinstance(content, Mapping):
        return f"a dict ({', '.join(map(str, list(content)[:5]))})" if content else "an empty dict"
    return f"an object of type {type(content).__name__}"
