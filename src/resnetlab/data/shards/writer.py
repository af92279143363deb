"""One shard, written: a tar file in WebDataset's naming under another name until it is whole, then its index.

Whoever finds the index finds the shard. Samples are in memory one at a time.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from resnetlab.config import ConfigError
from resnetlab.data.images.decode import BadImageError, decode, read_header, resize
from resnetlab.data.images.packed_sequences import PackedStrings
from resnetlab.data.images.storage import read_image_bytes
from resnetlab.data.registry import DatasetListing, SplitListing
from resnetlab.data.shards.format import COLUMNS, ShardEntry, ShardRows, pack_rows, read_arrays, read_rows
from resnetlab.system.atomic_files import write_atomic

QUALITY = 90
"""Of JPEG files that are written; with chroma at half the resolution, as cameras do."""
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WebP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff", "PPM": "ppm"}


@dataclass(frozen=True)
class PackOptions:
    """How to pack."""

    max_side: int | None = None
    """Shorter side in pixels; larger images are made so small and encoded as JPEG, others stay as they are."""
    shard_mib: int = 256
    """MiB that a shard has, about."""

    def __post_init__(self) -> None:
        if self.max_side is not None and self.max_side < 1:
            raise ConfigError(f"max-side must be at least 1, not {self.max_side}")
        if self.shard_mib < 1:
            raise ConfigError(f"shard-mib must be at least 1, not {self.shard_mib}")


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be written."""

    split: str
    number: int
    first: int
    """The number of its first sample within the split; keys count on from there."""
    samples: np.ndarray
    """int64: rows of the listing, in the order in which they are to stand."""

    @property
    def name(self) -> str:
        """Its name without a suffix."""
        return f"{self.split}-{self.number:06}"


@dataclass(frozen=True)
class EncodedSample:
    """An image as it is packed."""

    data: bytes
    height: int
    width: int
    suffix: str


@dataclass(frozen=True)
class WrittenShard:
    """A shard that was written."""

    entry: ShardEntry
    """What `index.json` says of it."""
    bad: list[str]
    """Images left out, each as `NAME: REASON`."""
    labels: frozenset[int]
    """The classes of which it has images."""


class BadShardError(Exception):
    """Images of one shard that cannot be read, each as `NAME: REASON`."""

    def __init__(self, bad: Sequence[str]) -> None:
        """Take them."""
        super().__init__(*bad)
        self.bad = bad


def encode_sample(data: bytes, max_side: int | None, max_pixels: int) -> EncodedSample:
    """Return an image as it is packed: its own bytes, or smaller where its shorter side is above `max_side`.

    Raises:
        BadImageError: where it cannot be read; where it is to stay as it is, only its header is.
    """
    header = read_header(data, max_pixels)
    if max_side is None or min(header.height, header.width) <= max_side:
        return EncodedSample(data, header.height, header.width, SUFFIXES[header.format])
    pixels = decode(data, max_pixels, 2 * max_side)
    scale = max_side / min(pixels.shape[:2])
    pixels = resize(pixels, *(max(max_side, round(side * scale)) for side in pixels.shape[:2]))
    encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=QUALITY, colorsubsampling="420")
    return EncodedSample(encoded, pixels.shape[0], pixels.shape[1], SUFFIXES["JPEG"])


def write_shard(
    out: Path, draft: ShardPlan, contents: DatasetListing, way: PackOptions, max_pixels: int, *, skip: bool
) -> WrittenShard:
    """Write one shard and its index.

    Raises:
        BadShardError: where images cannot be read and are not to be skipped; nothing is left then.
    """
    listing, bad, columns, names = contents.splits[draft.split], [], [], []
    temporary = out / f".{draft.name}.tar"
    try:
        with temporary.open("wb") as file:
            hashed = _Hashed(file)
            with tarfile.open(fileobj=hashed, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
                for key, name, label, image in _images(draft, listing, way, max_pixels, bad):
                    columns.append((tar.offset + tarfile.BLOCKSIZE, len(image.data), label, image.height, image.width))
                    names.append(name)
                    said = {"name": name, "class": contents.classes[label]}
                    _add(tar, f"{key:08}.{image.suffix}", image.data)
                    _add(tar, f"{key:08}.cls", str(label).encode())
                    _add(tar, f"{key:08}.json", json.dumps(said, ensure_ascii=False).encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
        if bad and not skip:
            raise BadShardError(bad)
        temporary.replace(out / f"{draft.name}.tar")
    finally:
        temporary.unlink(missing_ok=True)
    table = np.array(columns, np.int64).reshape(-1, len(COLUMNS))
    rows = ShardRows(*table.T, names=PackedStrings.of(names))
    reasons = PackedStrings.of(bad)
    data = pack_rows(
        rows,
        sha256=np.frombuffer(bytes.fromhex(hashed.sha256), np.uint8),
        bytes=np.array([hashed.num_bytes]),
        bad_text=reasons.text,
        bad_ends=reasons.ends,
    )
    write_atomic(out / f"{draft.name}.npz", data)
    return WrittenShard(_entry(draft, len(rows), hashed.num_bytes, hashed.sha256, data), bad, _labels(rows))


def read_written(out: Path, draft: ShardPlan, *, skip: bool) -> WrittenShard | None:
    """Return what is known of a shard that an earlier call made; `None` where it lacks images that are not to be."""
    path, index = out / f"{draft.name}.tar", out / f"{draft.name}.npz"
    if not (path.exists() and index.exists()):
        return None
    data = index.read_bytes()
    with suppress(ConfigError, KeyError, IndexError):
        arrays = read_arrays(data, str(index))
        bad = list(PackedStrings.packed(arrays["bad_text"], arrays["bad_ends"]))
        sha256 = arrays["sha256"].tobytes().hex()
        entry = _entry(draft, len(draft.samples) - len(bad), int(arrays["bytes"][0]), sha256, data)
        rows = read_rows(data, entry, 1 << 62, str(index))
        if path.stat().st_size == entry.bytes and (skip or not bad):
            return WrittenShard(entry, bad, _labels(rows))
    return None


def _entry(draft: ShardPlan, samples: int, length: int, sha256: str, index: bytes) -> ShardEntry:
    return ShardEntry(f"{draft.name}.tar", samples, length, sha256, hashlib.sha256(index).hexdigest())


def _labels(rows: ShardRows) -> frozenset[int]:
    return frozenset(np.unique(rows.label).tolist())


def _images(
    draft: ShardPlan, listing: SplitListing, way: PackOptions, max_pixels: int, bad: list[str]
) -> Iterator[tuple[int, str, int, EncodedSample]]:
    """Yield key, name, label and image of each sample, one in memory at a time; note what cannot be read in `bad`."""
    for key, row in enumerate(draft.samples.tolist(), start=draft.first):
        name = str(listing.names[row])
        try:
            yield (
                key,
                name,
                listing.labels[row],
                encode_sample(read_image_bytes(listing.places[row]), way.max_side, max_pixels),
            )
        except BadImageError as error:
            bad.append(f"{name}: {error}")
        except OSError as error:
            bad.append(f"{name}: cannot be read ({error.strerror or error})")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, BytesIO(data))


class _Hashed:
    """A file that is written once from its start to its end, and hashed on the way."""

    def __init__(self, file: Any) -> None:
        self._file, self._digest, self.num_bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self.num_bytes += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.num_bytes

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()
