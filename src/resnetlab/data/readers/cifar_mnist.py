"""CIFAR and MNIST as their authors publish them: found where they lie, or downloaded; checked, never unpickled."""

import gzip
import hashlib
import http.client
import os
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.registry import KNOWN, KnownDataset

TIMEOUT_S = 30
CIFAR_PIXELS = 3 * 32 * 32
IDX_IMAGES, IDX_LABELS = 0x00000803, 0x00000801
"""Magic numbers of an idx file: unsigned bytes in three dimensions, in one."""


@dataclass(frozen=True)
class RawImages:
    """Images as published: uint8 (num_samples, channels, height, width); labels int64; where each came from."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class RawDataset:
    """A known data set, before any split for validation."""

    classes: tuple[str, ...]
    train: RawImages
    test: RawImages
    warnings: tuple[str, ...] = ()


def read_archive(config: DataConfig) -> RawDataset:
    """Read a known data set from its folder or archive below `config.root`, or download it there.

    Raises:
        ConfigError: where it is absent and cannot be downloaded, or a file is damaged; the message names the file.
    """
    known = KNOWN[config.name]
    root = Path(config.root).expanduser() if config.root else cache_folder()
    if known.kind == "idx":
        root = _own_folder(root, config.name, known)
    read, warnings = _reader(config.name, known, root)
    classes = known.classes
    if known.kind == "cifar":
        classes = _cifar_classes(config.name, known, read)
        train, test = (_cifar(files, read, len(classes)) for files in (known.train, known.test))
    else:
        train, test = (_idx(files, read, len(classes)) for files in (known.train, known.test))
    for split, images, published in zip(("train", "test"), (train, test), known.published, strict=True):
        if len(images.labels) != published:
            warnings += (
                f"{config.name}: {len(images.labels):,} {split} images were found; {published:,} are published",
            )
    return RawDataset(classes, train, test, warnings)


def cache_folder() -> Path:
    """Return where data sets are kept if the user does not say: below $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnetlab"


def download(address: str, target: Path, md5: str) -> None:
    """Download a file, with a progress bar on stderr; what is broken or has another MD5 leaves nothing behind.

    Raises:
        OSError: where the server or the folder fails, or the file is not the one published.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    columns = (TextColumn("downloading {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    try:
        digest = hashlib.md5(usedforsecurity=False)
        with (
            os.fdopen(handle, "wb") as file,
            urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer,
            Progress(*columns, console=Console(stderr=True), transient=True) as bar,
        ):
            total = int(answer.headers.get("Content-Length") or 0)
            task = bar.add_task(target.name, total=total or None)
            while block := answer.read(1 << 18):
                file.write(block)
                digest.update(block)
                bar.advance(task, len(block))
        if digest.hexdigest() != md5:
            size = temporary.stat().st_size
            raise OSError(f"{size:,} bytes with MD5 {digest.hexdigest()} came, not those of MD5 {md5}")
        temporary.chmod(0o644)  # mkstemp makes private files; a data set may be shared
        temporary.replace(target)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise OSError(str(error)) from error
    except http.client.HTTPException as error:
        raise OSError(f"the server broke off: {error!r}") from error
    finally:
        temporary.unlink(missing_ok=True)


Reader = Callable[[str], tuple[str, bytes] | None]
"""From the name of a file in the unpacked folder to what an error calls it and its content; `None` if missing."""


def _reader(name: str, known: KnownDataset, root: Path) -> tuple[Reader, tuple[str, ...]]:
    """Return what reads a data set's files, from the folder or the archive, which is downloaded if need be."""
    folders = (root, root / known.folder)
    unpacked = next((folder for folder in folders if (folder / known.train[0]).is_file()), None)
    if unpacked is not None:
        return lambda file: _from_folder(unpacked, file), ()
    warnings = ()
    for archive, md5 in known.archives.items():
        path = next((folder / archive for folder in folders if (folder / archive).is_file()), root / archive)
        if path.is_file():
            warnings += _check_md5(name, known, path, md5)
        else:
            _fetch(name, known.address + archive, path, md5)
    if known.kind == "idx":
        packed = next(folder for folder in folders if (folder / f"{known.train[0]}.gz").is_file())
        return lambda file: _from_folder(packed, file), warnings
    content = _from_tar(root / next(iter(known.archives)), known)
    return content.get, warnings


def _own_folder(root: Path, name: str, known: KnownDataset) -> Path:
    """Return the folder of one of the idx sets: their files share names, so in a common root each has its own."""
    first = known.train[0]
    used = [folder for folder in (root, root / known.folder) if any(folder.glob(f"{first}*"))]
    return root if used and not any((root / name).glob(f"{first}*")) else root / name


def _fetch(name: str, address: str, path: Path, md5: str) -> None:
    try:
        download(address, path, md5)
    except OSError as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())  # URLError would put angle brackets round it
        raise ConfigError(
            f"{name} is not in {path.parent} and cannot be downloaded ({reason}); "
            f"put {path.name} there yourself, from {address}, or say with --data-root where it is"
        ) from error


def _check_md5(name: str, known: KnownDataset, path: Path, md5: str) -> tuple[str, ...]:
    """Refuse a CIFAR archive that is not the published one; of idx files, which may be packed anew, only warn."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found == md5:
        return ()
    owner = next((other for other, its in KNOWN.items() if found in its.archives.values()), None)
    if known.kind == "idx" and owner is None:  # gzip's own checksum still finds damage
        return (f"{path}: not the file that was published (MD5 {found}, not {md5})",)
    if owner:
        raise ConfigError(f"{path}: this is a file of {owner}, not of {name}; give each a folder of its own")
    raise ConfigError(
        f"{path}: damaged, or another file (MD5 {found}, not {md5}); remove it, and it is downloaded again "
        f"from {known.address}{path.name}"
    )


def _from_folder(folder: Path, file: str) -> tuple[str, bytes] | None:
    path = folder / file
    try:
        if path.is_file():
            return str(path), path.read_bytes()
        packed = path.with_name(f"{file}.gz")
        if packed.is_file():
            with gzip.open(packed) as stream:
                return str(packed), stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); get it again") from error
    return None


def _from_tar(path: Path, known: KnownDataset) -> dict[str, tuple[str, bytes]]:
    """Read the files we know from an archive, in memory: no member's path is ever used as one."""
    wanted = {*known.train, *known.test, "batches.meta.txt", "fine_label_names.txt"}
    content = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                stream = archive.extractfile(member) if member.isfile() and name in wanted else None
                if stream is not None:
                    content[name] = (f"{path}: {name}", stream.read())
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); remove it to download it again") from error
    return content


def _needed(file: str, read: Reader) -> tuple[str, bytes]:
    found = read(file)
    if found is None:
        raise ConfigError(f"{file} is missing beside the other files of the data set; unpack the archive again")
    return found


def _cifar_classes(name: str, known: KnownDataset, read: Reader) -> tuple[str, ...]:
    """Read the class names; those built in where their file is missing."""
    found = read("batches.meta.txt" if name == "cifar10" else "fine_label_names.txt")
    if found is None:
        return known.classes
    where, content = found
    classes = tuple(content.decode("utf-8", "replace").split())
    if len(classes) != len(known.classes):
        raise ConfigError(f"{where}: {len(classes)} class names, not {len(known.classes)}")
    return classes


def _cifar(files: tuple[str, ...], read: Reader, num_classes: int) -> RawImages:
    """Read records of a label (CIFAR-100: a coarse and a fine one) and 32x32 pixels, channel by channel."""
    label_bytes = 2 if num_classes == 100 else 1
    record = label_bytes + CIFAR_PIXELS
    images, labels, names = [], [], []
    for file in files:
        where, content = _needed(file, read)
        if not content or len(content) % record:
            raise ConfigError(f"{where}: {len(content):,} bytes are not a whole number of records of {record:,}")
        rows = np.frombuffer(content, np.uint8).reshape(-1, record)
        images.append(rows[:, label_bytes:].reshape(-1, 3, 32, 32))
        labels.append(_labels(rows[:, label_bytes - 1], num_classes, where))
        names += [f"{file} image {row}" for row in range(len(rows))]
    together = torch.from_numpy(np.concatenate(images))
    return RawImages(together, torch.from_numpy(np.concatenate(labels)), tuple(names))


def _idx(files: tuple[str, ...], read: Reader, num_classes: int) -> RawImages:
    """Read grey 28x28 images and their labels."""
    (where, images), (labels_where, labels) = (_needed(file, read) for file in files)
    pixels = _idx_array(images, IDX_IMAGES, where)
    if pixels.shape[1:] != (28, 28):
        raise ConfigError(f"{where}: images of {pixels.shape[1]}x{pixels.shape[2]} pixels, not 28x28")
    numbers = _labels(_idx_array(labels, IDX_LABELS, labels_where), num_classes, labels_where)
    if len(pixels) != len(numbers):
        raise ConfigError(f"{labels_where}: {len(numbers):,} labels for {len(pixels):,} images; get both again")
    names = tuple(f"{files[0]} image {row}" for row in range(len(pixels)))
    return RawImages(torch.from_numpy(pixels.copy())[:, None], torch.from_numpy(numbers), names)


def _idx_array(content: bytes, magic: int, where: str) -> np.ndarray:
    dimensions = magic & 0xFF
    start = 4 * (1 + dimensions)
    header = np.frombuffer(content[: len(content[:start]) // 4 * 4], ">u4").astype(np.int64)
    if len(header) == 0 or header[0] != magic:
        found = f"starts with {int(header[0]):08x}" if len(header) else "is empty"
        raise ConfigError(f"{where}: {found}, an idx file of this kind with {magic:08x}; get it again")
    shape = tuple(int(length) for length in header[1:])
    expected = start + int(np.prod(shape, dtype=object)) if len(shape) == dimensions else start
    if len(content) != expected or expected == start:
        raise ConfigError(f"{where}: {len(content):,} bytes, but its header announces {expected:,}; get it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _labels(numbers: np.ndarray, num_classes: int, where: str) -> np.ndarray:
    """Return labels as int64, none of them out of range."""
    wrong = np.flatnonzero(numbers >= num_classes)
    if len(wrong):
        raise ConfigError(
            f"{where}: label {numbers[wrong[0]]} of image {wrong[0]} is out of range; there are {num_classes} classes"
        )
    return numbers.astype(np.int64)
