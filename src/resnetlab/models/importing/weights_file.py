"""Read the tensors of a file of weights without executing its content; files of other objects are refused."""

import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from resnetlab.models.importing.weights_parts import find_parts
from resnetlab.models.model_card import ModelFileError, check_checksums, find_model_file

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


def read_weights(path: Path | str, tensors: str | None = None) -> WeightsFile:
    """Read safetensors, or a `torch.save` file (with `weights_only=True`); of a folder, its model.safetensors.

    A part such as `model-00001-of-00002.safetensors` is read with the other parts beside it.

    Args:
        path: The file.
        tensors: Keys, joined by dots, of the state dict to read, such as `ema`; or a prefix of the keys of the
            weights. `None` takes the likeliest.

    Raises:
        ModelFileError: for any other file; the message names the file and its kind as far as it can be determined.
    """
    path = find_model_file(path)
    parts = find_parts(path)
    files = [_read_file(part, tensors) for part in parts]
    if len(files) == 1:
        return files[0]
    merged: dict[str, Tensor] = {}
    for part, file in zip(parts, files, strict=True):
        twice = next((key for key in file.tensors if key in merged), None)
        if twice is not None:
            raise ModelFileError(f"{part}: has {twice}, and so has another part; download all parts again")
        merged |= file.tensors
    return replace(files[0], tensors=merged, in_order=False, container=f"{files[0].container}, {len(parts)} parts")


def _read_file(path: Path, wanted: str | None) -> WeightsFile:
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
    if start.startswith(b"PK\x03\x04"):
        _check_archive(path)
        return _read_torch(path, wanted, mmap=True)
    if start.startswith(b"\x80") and start[8:9] != b"{":
        return _read_torch(path, wanted, mmap=False)
    if start[8:9] == b"{":
        weights = _read_safetensors(path)
        return weights if wanted is None else select_prefix(weights, wanted, path)
    raise ModelFileError(f"{path}: {_identify(start)}")


def _read_safetensors(path: Path) -> WeightsFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            values = file.metadata() or {}
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path}: cannot be read as safetensors ({error})") from error
    check_checksums(path, values)
    metadata = {key: value for key, value in values.items() if key != "format" and len(value) <= MAX_METADATA_LENGTH}
    return WeightsFile(tensors, in_order=False, container="safetensors", metadata=metadata)


def _read_torch(path: Path, wanted: str | None, *, mmap: bool) -> WeightsFile:
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
    _check_storage(tensors, path)
    beside = _beside(content, wrapper)
    if wanted is not None:
        paths = (wanted, ".".join((*wrapper[:-1], wanted)))
        keys = next((path for path in paths if isinstance(_follow(content, path), Mapping)), "")
        chosen = _find_state_dict(_follow(content, keys)) if keys else None
        if chosen is None:
            others = other_networks(beside, wrapper[-1]) if wrapper else ()
            whole = WeightsFile(tensors, True, "a PyTorch checkpoint", ".".join(wrapper), {}, other_state_dicts=others)
            return select_prefix(whole, wanted, path)
        wrapper, tensors = (*keys.split("."), *chosen[0]), chosen[1]
        _check_storage(tensors, path)
        beside = _beside(content, wrapper)
    metadata = {}
    if wrapper:
        for key, value in beside.items():
            short = isinstance(value, str | int | float) and len(str(value)) <= MAX_METADATA_LENGTH
            if short and len(metadata) < MAX_METADATA:
                metadata[str(key)] = value
    return WeightsFile(
        tensors,
        in_order=True,
        container="a PyTorch checkpoint",
        wrapper=".".join(wrapper),
        metadata=metadata,
        other_state_dicts=other_networks(beside, wrapper[-1]) if wrapper else (),
    )


def _check_storage(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise `ModelFileError` for a tensor of more numbers than the file stores: a copy of it could fill the memory."""
    for key, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if plain and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ModelFileError(
                f"{path}: {key[:80]} has {tensor.numel():,} numbers, and the file stores fewer; save a copy of it "
                "(tensor.clone())"
            )


def _beside(content: Any, wrapper: Sequence[str]) -> Mapping[Any, Any]:
    """Return the mapping that holds the state dict."""
    return _follow(content, ".".join(wrapper[:-1])) if len(wrapper) > 1 else content


def _follow(content: Any, keys: str) -> Any:
    """Return the value under keys that are joined by dots, or `None`."""
    for key in keys.split("."):
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def other_networks(beside: Mapping[Any, Any], name: str) -> tuple[str, ...]:
    """Return the keys of the state dicts beside the one called `name`, as `--tensors` takes them."""
    others = []
    for key, value in beside.items():
        if key != name and isinstance(value, Mapping):
            inner = _find_state_dict(value)
            is_optimiser = OPTIMISER_KEYS.search(str(key)) is not None
            if _named_tensors(value):
                others.append(str(key))
            elif inner is not None and not is_optimiser:
                others.append(".".join((str(key), *inner[0])))
    return tuple(others)


def select_prefix(weights: WeightsFile, wanted: str, path: Path) -> WeightsFile:
    """Return the tensors whose keys start with `wanted.`, without it.

    Raises:
        ModelFileError: if there are none; the message has what could be chosen.
    """
    prefix = f"{wanted}."
    tensors = {key.removeprefix(prefix): value for key, value in weights.tensors.items() if key.startswith(prefix)}
    if not tensors:
        prefixes = dict.fromkeys(key.partition(".")[0] for key in weights.tensors if "." in key)
        choices = [*filter(None, [weights.wrapper]), *weights.other_state_dicts, *prefixes][:8]
        raise ModelFileError(f"{path}: has no tensors under {wanted!r}; --tensors takes one of: {', '.join(choices)}")
    return replace(weights, tensors=tensors, wrapper=".".join(filter(None, [weights.wrapper, wanted])))


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
