"""A file of weights → its tensors. Nothing in it is ever executed: what is no plain tensor or number is refused."""

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

from resnetlab.models.model_card import ModelFileError, find_model_file

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params")
"""Under which name a checkpoint keeps the weights, the likeliest first."""
OPTIMISER = re.compile(r"optim|momentum|velocity|exp_avg|grad|adam|sgd", re.IGNORECASE)
"""Names under which an optimiser keeps tensors of the same shapes, which are no weights."""
MOST_SAID, LONGEST_SAID = 12, 80
"""How many numbers and words beside the weights are passed on (an epoch, an accuracy, a name), of how many letters."""
KNOWN_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself; fetch it with: git lfs pull"),
    (b"<", "a web page or XML; the download went wrong"),
    (b"\x1f\x8b", "gzip; unpack it first"),
    (b"\x89HDF", "HDF5, as Keras writes it; only safetensors and PyTorch files are read"),
    (b"\x93NUMPY", "a NumPy array; only safetensors and PyTorch files are read"),
)


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a file, and what else it says."""

    tensors: Mapping[str, Tensor]
    """On the CPU, as they are in the file; do not write to them."""
    in_order: bool
    """Whether the file keeps the order in which they were given to it; safetensors sorts them."""
    container: str
    """What kind of file it is, in words."""
    under: str = ""
    """Under which names the tensors were, joined by dots; empty where they were the file's own content."""
    says: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """What stands beside the weights, or in the metadata."""
    others: tuple[str, ...] = ()
    """Names of other sets of tensors in the file, which were not looked at."""


def read_weights(path: Path | str) -> WeightsFile:
    """Read safetensors, or what `torch.save` wrote (with `weights_only=True`); of a folder, its model.safetensors.

    Raises:
        ModelFileError: for anything else; the message names the file and says what it is as far as that can be told.
    """
    path = find_model_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
    if start.startswith(b"PK\x03\x04"):
        _check_archive(path)
        return _from_torch(path, mmap=True)
    if start.startswith(b"\x80") and start[8:9] != b"{":
        return _from_torch(path, mmap=False)
    if start[8:9] == b"{":
        return _from_safetensors(path)
    raise ModelFileError(f"{path}: {_what_it_is(start)}")


def _from_safetensors(path: Path) -> WeightsFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            says = {
                key: value
                for key, value in (file.metadata() or {}).items()
                if key != "format" and len(value) <= LONGEST_SAID
            }
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path}: cannot be read as safetensors ({error})") from error
    return WeightsFile(tensors, in_order=False, container="safetensors", says=says)


def _from_torch(path: Path, *, mmap: bool) -> WeightsFile:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecations inside an old file
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged pickle can fail in any way at all
        raise ModelFileError(f"{path}: {_why_not(str(error))}") from error
    found = _find(content)
    if found is None:
        raise ModelFileError(f"{path}: a PyTorch file that holds {_words(content)}, and no state dict: tensors by name")
    under, tensors = found
    beside = content
    for name in under[:-1]:
        beside = beside[name]
    says, others = {}, []
    if under:
        for key, value in beside.items():
            if isinstance(value, str | int | float) and len(str(value)) <= LONGEST_SAID and len(says) < MOST_SAID:
                says[str(key)] = value
            elif key != under[-1] and isinstance(value, Mapping) and _tensors(value):
                others.append(str(key))
    return WeightsFile(tensors, True, "a PyTorch checkpoint", ".".join(under), says, tuple(others))


def _find(content: object, depth: int = 0) -> tuple[tuple[str, ...], dict[str, Tensor]] | None:
    """Look for tensors by name: under the usual names, then under any, then here; with the names on the way."""
    if not isinstance(content, Mapping) or depth > 3:
        return None
    names = [name for name, value in content.items() if isinstance(name, str) and isinstance(value, Mapping)]
    for name in sorted(names, key=_rank):
        found = _find(content[name], depth + 1)
        if found is not None:
            return (name, *found[0]), found[1]
    here = _tensors(content)
    return ((), here) if any(tensor.dim() > 1 for tensor in here.values()) else None


def _rank(name: str) -> int:
    """Return how late a name is looked under: last under those of an optimiser."""
    if name in WRAPPERS:
        return WRAPPERS.index(name)
    return len(WRAPPERS) + bool(OPTIMISER.search(name))


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: value.detach() for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _check_archive(path: Path) -> None:
    """Refuse a zip archive that is damaged, or that `torch.save` did not write: its entries lie as they are.

    Raises:
        ModelFileError: saying what it is instead.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelFileError(f"{path}: a damaged or unfinished PyTorch file ({error})") from error
    names = [entry.filename for entry in entries]
    if not any(name.endswith("/data.pkl") for name in names):
        raise ModelFileError(f"{path}: a zip archive, but none that torch.save wrote (it has no data.pkl); unpack it")
    if any("/code/" in name for name in names):
        raise ModelFileError(f"{path}: a TorchScript program, which is not run; save the network's state_dict() alone")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ModelFileError(f"{path}: a compressed zip archive, and torch.save compresses nothing; save it anew")
    damaged = _damaged(path) if any(entry.CRC for entry in entries) else None  # torch.save can leave them out, as 0
    if damaged is not None:
        raise ModelFileError(
            f"{path}: a damaged PyTorch file (the checksum of its record {damaged} is another); copy "
            "or download it anew"
        )


def _damaged(path: Path) -> str | None:
    """Return the first record of an archive that does not fit its checksum, which `torch.load` never looks at."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise ModelFileError(f"{path}: a damaged or unfinished PyTorch file ({error})") from error


def _why_not(message: str) -> str:
    """Say in a line why `torch.load` refused a file."""
    name = re.search(r"GLOBAL ([\w.]+)", message)
    if name is not None or re.search(r"Trying to|Can only", message):
        what = f"objects such as {name[1]}" if name else "objects"
        return (
            f"refused: it holds {what} beside tensors, and reading such may run whatever code its author put in; where "
            "you trust it, save its state_dict() alone and inspect that"
        )
    if "Unsupported operand" in message or "magic number" in message:
        return "a pickle, but none that torch.save wrote, or a damaged one"
    detail = message.rpartition("WeightsUnpickler error:")[2].strip()  # without PyTorch's advice before it
    first = " ".join(detail.split("\n")[0].split()) or "nothing more is known"
    return f"a damaged or unfinished PyTorch file ({first[:120]})"


def _what_it_is(start: bytes) -> str:
    if not start:
        return "an empty file"
    known = next((words for sign, words in KNOWN_STARTS if start.startswith(sign)), None)
    if known is not None:
        return known
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it and name the file of weights inside"
    try:
        start.decode()
    except UnicodeDecodeError:
        return "neither safetensors nor a PyTorch file, or a damaged one"
    return "neither safetensors nor a PyTorch file; it looks like text" if b"\0" not in start else "no file of weights"


def _words(content: object) -> str:
    if isinstance(content, Tensor):
        return "one tensor"
    if isinstance(content, Mapping):
        return f"a dict ({', '.join(map(str, list(content)[:5]))})" if content else "an empty dict"
    return f"a {type(content).__name__}"
