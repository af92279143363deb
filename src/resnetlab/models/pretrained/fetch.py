"""Find the file of a catalogue entry on this machine, or download it into the cache."""

import os
from pathlib import Path

from resnetlab.literature.class_names import published_classes
from resnetlab.models.pretrained.catalogue import PretrainedWeights
from resnetlab.models.pretrained.convert import Conversion, convert, converted_path, weights_folder
from resnetlab.system.cache_folder import VARIABLE
from resnetlab.system.download import CacheError, DownloadError, HashError, download
from resnetlab.system.download_progress import DownloadProgress


def conversion_of(entry: PretrainedWeights) -> Conversion:
    """Return what the model file of an entry contains besides its weights."""
    accuracy = {"top1_pct": entry.top1_pct} | ({} if entry.top5_pct is None else {"top5_pct": entry.top5_pct})
    return Conversion(
        name=entry.name,
        model=entry.model,
        classes=published_classes(entry.data),
        preprocessing=entry.preprocessing,
        origin={
            "name": entry.name,
            "url": entry.file.url,
            "licence": entry.publisher.licence,
            "trained_on": entry.data,
            "published_accuracy": accuracy,
        },
    )


def model_file(entry: PretrainedWeights) -> Path:
    """Return the model file of an entry in the cache; download and convert the weights unless that is done.

    Raises:
        DownloadError: if the file is not on this machine and cannot be downloaded; the message says where to put it.
        ModelFileError: if the file holds another network than published.
    """
    conversion = conversion_of(entry)
    path = converted_path(conversion, entry.file.digest)
    return path if path.exists() else convert(weights_file(entry), conversion, entry.file.digest)


def weights_file(entry: PretrainedWeights) -> Path:
    """Return the published file: from the cache, from the cache of PyTorch's hub, or downloaded.

    Raises:
        DownloadError: if it is on no disk and cannot be downloaded.
    """
    found = local_file(entry)
    if found is not None:
        return found
    target = weights_folder() / entry.file_name
    exists = target.exists()
    try:
        with DownloadProgress(f"{entry.file_name} from {entry.file.url.rpartition('/')[0]}") as progress:
            download(entry.file, target, progress)
    except HashError:
        raise
    except CacheError as error:
        raise CacheError(f"{error}; free some space, or name another folder with --cache-dir") from error
    except DownloadError as error:
        wrong = f"; the file {target.name} in {target.parent} has another SHA-256" if exists else ""
        raise DownloadError(
            f"{entry.name} is not on this machine{wrong}, and {error}; download it elsewhere and put it into "
            f"{target.parent} as {target.name}, or name a cache that has it with --cache-dir or {VARIABLE}"
        ) from error
    return target


def local_file(entry: PretrainedWeights) -> Path | None:
    """Return the published file if it is on this machine and has the published SHA-256, else `None`."""
    return next((path for path in _places(entry) if entry.file.is_at(path)), None)


def is_cached(entry: PretrainedWeights) -> bool:
    """Return whether an entry can be used without network. The content of files is not checked."""
    converted = converted_path(conversion_of(entry), entry.file.digest)
    return any(path.is_file() for path in (converted, *_places(entry)))


def _places(entry: PretrainedWeights) -> tuple[Path, Path]:
    """Return the paths where the published file may be: in the cache, and where PyTorch's hub stores it."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    checkpoints = Path(home).expanduser() / "hub" / "checkpoints"
    return weights_folder() / entry.file_name, checkpoints / entry.file_name
