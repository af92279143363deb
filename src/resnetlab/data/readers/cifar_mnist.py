"""CIFAR and MNIST in their published formats: found on disk or downloaded, and checked. Nothing is unpickled."""

import gzip
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.registry import KNOWN_DATASETS, KnownDataset
from resnetlab.system.cache_folder import cache_folder
from resnetlab.system.download import DownloadError, RemoteFile, download, file_digest
from resnetlab.system.download_progress import DownloadProgress

CIFAR_PIXELS = 3 * 32 * 32
IDX_IMAGES, IDX_LABELS = 0x00000803, 0x00000801
"""Magic numbers of idx files with unsigned bytes in three dimensions and in one."""


@dataclass(frozen=True)
class RawImages:
    """Published images and labels of one split."""

    images: Tensor
    """uint8 (num_samples, channels, height, width)."""
    labels: Tensor
    """int64 (num_samples,)."""
    names: tuple[str, ...]
    """The file and row of each image, for error messages."""


@dataclass(frozen=True)
class RawDataset:
    """A known data set, before any validation split is held out."""

    classes: tuple[str, ...]
    train: RawImages
    test: RawImages
    warnings: tuple[str, ...] = ()


def read_archive(config: DataConfig) -> RawDataset:
    """Read a known data set from its folder or archive below `config.root`, or download it to that folder.

    Raises:
        ConfigError: If the data set is missing and cannot be downloaded, or a file is damaged; the message names the
            file.
    """
    known = KNOWN_DATASETS[config.name]
    root = Path(config.root).expanduser() if config.root else cache_folder()
    if known.kind == "idx":
        root = _idx_folder(root, config.name, known)
    read, warnings = _find_reader(config.name, known, root)
    classes = known.classes
    if known.kind == "cifar":
        classes = _read_cifar_classes(config.name, known, read)
        train, test = (_read_cifar(files, read, len(classes)) for files in (known.train, known.test))
    else:
        train, test = (_read_idx(files, read, len(classes)) for files in (known.train, known.test))
    for split, images, num_published in zip(("train", "test"), (train, test), known.num_images, strict=True):
        if len(images.labels) != num_published:
            warnings += (
                f"{config.name}: {len(images.labels):,} {split} images found, but {num_published:,} are published",
            )
    return RawDataset(classes, train, test, warnings)


FileReader = Callable[[str], tuple[str, bytes] | None]
"""Function from a file name in the unpacked folder to the file's name in errors and its content; `None` if missing."""


def _find_reader(name: str, known: KnownDataset, root: Path) -> tuple[FileReader, tuple[str, ...]]:
    """Return a reader of the unpacked folder or of the archives, which are downloaded if they are missing."""
    folders = (root, root / known.folder)
    # An idx file NAME.gz is the published archive, which is checked below; a CIFAR file may be compressed by the user.
    first = [known.train[0], *([] if known.kind == "idx" else [f"{known.train[0]}.gz"])]
    unpacked = next((folder for folder in folders if any((folder / name).is_file() for name in first)), None)
    if unpacked is not None:
        return lambda file: _read_from_folder(unpacked, file), ()
    warnings = ()
    for archive, md5 in known.archives.items():
        path = next((folder / archive for folder in folders if (folder / archive).is_file()), root / archive)
        if path.is_file():
            warnings += _check_md5(name, known, path, md5)
        else:
            _download_archive(name, RemoteFile(known.url + archive, md5, "md5"), path)
    if known.kind == "idx":
        packed = next(folder for folder in folders if (folder / f"{known.train[0]}.gz").is_file())
        return lambda file: _read_from_folder(packed, file), warnings
    content = _read_tar(root / next(iter(known.archives)), known)
    return content.get, warnings


def _idx_folder(root: Path, name: str, known: KnownDataset) -> Path:
    """Return the folder of an idx data set. MNIST and Fashion-MNIST have equal file names, so each has a folder."""
    first = known.train[0]
    used = [folder for folder in (root, root / known.folder) if any(folder.glob(f"{first}*"))]
    return root if used and not any((root / name).glob(f"{first}*")) else root / name


def _download_archive(name: str, file: RemoteFile, path: Path) -> None:
    try:
        with DownloadProgress(f"{path.name} from {file.url.rpartition('/')[0]}") as progress:
            download(file, path, progress)
    except DownloadError as error:
        raise ConfigError(
            f"{error}; {name} is not in {path.parent}: put {path.name} there yourself, or give its folder with "
            "--data-root"
        ) from error


def _check_md5(name: str, known: KnownDataset, path: Path, md5: str) -> tuple[str, ...]:
    """Raise if a CIFAR archive is not the published file; return a warning for idx files, which may be recompressed."""
    found = file_digest(path, "md5")
    if found == md5:
        return ()
    owner = next((other for other, dataset in KNOWN_DATASETS.items() if found in dataset.archives.values()), None)
    if known.kind == "idx" and owner is None:  # gzip's own checksum still detects damage
        return (f"{path}: differs from the published file (MD5 {found}, not {md5})",)
    if owner:
        raise ConfigError(f"{path}: is a file of {owner}, not of {name}; give each data set a folder of its own")
    raise ConfigError(
        f"{path}: damaged, or another file (MD5 {found}, not {md5}); delete it to download it again "
        f"from {known.url}{path.name}"
    )


def _read_from_folder(folder: Path, file: str) -> tuple[str, bytes] | None:
    path = folder / file
    try:
        if path.is_file():
            return str(path), path.read_bytes()
        packed = path.with_name(f"{file}.gz")
        if packed.is_file():
            with gzip.open(packed) as stream:
                return str(packed), stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); download it again") from error
    return None


def _read_tar(path: Path, known: KnownDataset) -> dict[str, tuple[str, bytes]]:
    """Read the needed files of an archive into memory; no path of a member is used as a file path."""
    needed = {*known.train, *known.test, "batches.meta.txt", "fine_label_names.txt"}
    content = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                stream = archive.extractfile(member) if member.isfile() and name in needed else None
                if stream is not None:
                    content[name] = (f"{path}: {name}", stream.read())
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); delete it to download it again") from error
    return content


def _read_needed(file: str, read: FileReader) -> tuple[str, bytes]:
    found = read(file)
    if found is None:
        raise ConfigError(f"{file} is missing beside the other files of the data set; unpack the archive again")
    return found


def _read_cifar_classes(name: str, known: KnownDataset, read: FileReader) -> tuple[str, ...]:
    """Return the class names from their file, or the built-in names if the file is missing."""
    found = read("batches.meta.txt" if name == "cifar10" else "fine_label_names.txt")
    if found is None:
        return known.classes
    where, content = found
    classes = tuple(content.decode("utf-8", "replace").split())
    if len(classes) != len(known.classes):
        raise ConfigError(
            f"{where}: has {len(classes)} class names, not {len(known.classes)}; unpack the archive again"
        )
    return classes


def _read_cifar(files: tuple[str, ...], read: FileReader, num_classes: int) -> RawImages:
    """Read records of a label (CIFAR-100: a coarse and a fine label) and 32x32 pixels, channel by channel."""
    label_bytes = 2 if num_classes == 100 else 1
    record_bytes = label_bytes + CIFAR_PIXELS
    images, labels, names = [], [], []
    for file in files:
        where, content = _read_needed(file, read)
        if not content or len(content) % record_bytes:
            raise ConfigError(
                f"{where}: {len(content):,} bytes are not a multiple of a record's {record_bytes:,}; download it again"
            )
        records = np.frombuffer(content, np.uint8).reshape(-1, record_bytes)
        images.append(records[:, label_bytes:].reshape(-1, 3, 32, 32))
        labels.append(_check_labels(records[:, label_bytes - 1], num_classes, where))
        names += [f"{file} image {row}" for row in range(len(records))]
    pixels = torch.from_numpy(np.concatenate(images))
    return RawImages(pixels, torch.from_numpy(np.concatenate(labels)), tuple(names))


def _read_idx(files: tuple[str, ...], read: FileReader, num_classes: int) -> RawImages:
    """Read greyscale images of 28x28 pixels and their labels."""
    (where, images), (labels_where, labels) = (_read_needed(file, read) for file in files)
    pixels = _idx_array(images, IDX_IMAGES, where)
    if pixels.shape[1:] != (28, 28):
        raise ConfigError(
            f"{where}: images of {pixels.shape[1]}x{pixels.shape[2]} pixels, not 28x28; download it again"
        )
    numbers = _check_labels(_idx_array(labels, IDX_LABELS, labels_where), num_classes, labels_where)
    if len(pixels) != len(numbers):
        raise ConfigError(f"{labels_where}: {len(numbers):,} labels for {len(pixels):,} images; download both again")
    names = tuple(f"{files[0]} image {row}" for row in range(len(pixels)))
    return RawImages(torch.from_numpy(pixels.copy())[:, None], torch.from_numpy(numbers), names)


def _idx_array(content: bytes, magic: int, where: str) -> np.ndarray:
    """Return the array of an idx file; check its magic number and its size."""
    num_dimensions = magic & 0xFF
    start = 4 * (1 + num_dimensions)
    header = np.frombuffer(content[: len(content[:start]) // 4 * 4], ">u4").astype(np.int64)
    if len(header) == 0 or header[0] != magic:
        found = f"starts with {int(header[0]):08x}" if len(header) else "is empty"
        raise ConfigError(f"{where}: {found}, but this kind of idx file starts with {magic:08x}; download it again")
    shape = tuple(int(length) for length in header[1:])
    expected = start + int(np.prod(shape, dtype=object)) if len(shape) == num_dimensions else start
    if len(content) != expected or expected == start:
        raise ConfigError(f"{where}: has {len(content):,} bytes instead of {expected:,}; download it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _check_labels(numbers: np.ndarray, num_classes: int, where: str) -> np.ndarray:
    """Return labels as int64; raise if one is out of range."""
    wrong = np.flatnonzero(numbers >= num_classes)
    if len(wrong):
        raise ConfigError(
            f"{where}: label {numbers[wrong[0]]} of image {wrong[0]} is out of range; there are {num_classes} classes"
        )
    return numbers.astype(np.int64)
