"""Writing one shard: a tar file in WebDataset's naming, then its index.

The tar file has a temporary name until it is complete, and the index is written last, so that an existing index means a
complete shard. One sample is in memory at a time.
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

from resnetlab.config import ColorProfiles, ConfigError
from resnetlab.data.images.decode import BadImageError, decode, read_header
from resnetlab.data.images.packed_sequences import PackedStrings
from resnetlab.data.images.resample import resize
from resnetlab.data.images.storage import confirm_shard_of, read_image_bytes
from resnetlab.data.listing import DatasetListing, SplitListing
from resnetlab.data.shards.format import COLUMNS, ShardEntry, ShardRows, pack_rows, read_arrays, read_rows
from resnetlab.system.atomic_files import write_atomic

JPEG_QUALITY = 90
"""Quality of resized images; their chroma has half the resolution, as cameras store it."""
FORMAT_SUFFIXES = {
    "JPEG": "jpg",
    "PNG": "png",
    "WebP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tiff",
    "PPM": "ppm",
}


@dataclass(frozen=True)
class PackOptions:
    """Options that determine the content of shards."""

    max_side: int | None = None
    """Shorter side in pixels to which larger images are resized, as JPEG; `None` leaves all images unchanged."""
    shard_mib: int = 256
    """Approximate size of a shard in MiB."""
    color_profiles: ColorProfiles = "apply"
    """Whether the colours of a resized image, which loses its colour profile, are converted to sRGB by it."""

    def __post_init__(self) -> None:
        if self.max_side is not None and self.max_side < 1:
            raise ConfigError(f"max-side must be at least 1, not {self.max_side}")
        if self.shard_mib < 1:
            raise ConfigError(f"shard-mib must be at least 1, not {self.shard_mib}")


@dataclass(frozen=True)
class ShardPlan:
    """The samples of a shard that is to be written."""

    split: str
    number: int
    """Number of the shard within its split."""
    first_key: int
    """Key of the first sample; keys count the samples of the split."""
    rows: np.ndarray
    """int64: rows of the split's listing, in the order of the shard."""

    @property
    def name(self) -> str:
        """File name without a suffix."""
        return f"{self.split}-{self.number:06}"


@dataclass(frozen=True)
class EncodedSample:
    """An encoded image for a shard."""

    data: bytes
    height: int
    width: int
    suffix: str


@dataclass(frozen=True)
class WrittenShard:
    """A complete shard."""

    entry: ShardEntry
    """Its entry in `index.json`."""
    bad: list[str]
    """Images that were left out, each as `NAME: REASON`."""
    labels: frozenset[int]
    """The classes of its images."""


class BadShardError(Exception):
    """Images of one shard cannot be read."""

    def __init__(self, bad: Sequence[str]) -> None:
        """Store the images, each as `NAME: REASON`."""
        super().__init__(*bad)
        self.bad = bad


def encode_sample(data: bytes, options: PackOptions, max_pixels: int) -> EncodedSample:
    """Return an image as it is packed: unchanged, or resized if its shorter side is above `options.max_side`.

    Raises:
        BadImageError: If the image cannot be decoded. Of an image that stays unchanged only the header is read.
    """
    header, max_side = read_header(data, max_pixels), options.max_side
    if max_side is None or min(header.height, header.width) <= max_side:
        return EncodedSample(data, header.height, header.width, FORMAT_SUFFIXES[header.format])
    pixels = decode(data, max_pixels, 2 * max_side, color_profiles=options.color_profiles)
    scale = max_side / min(pixels.shape[:2])
    height, width = (max(max_side, round(side * scale)) for side in pixels.shape[:2])
    pixels = resize(pixels, height, width)
    encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=JPEG_QUALITY, colorsubsampling="420")
    return EncodedSample(encoded, pixels.shape[0], pixels.shape[1], FORMAT_SUFFIXES["JPEG"])


def write_shard(
    out: Path, plan: ShardPlan, listing: DatasetListing, *, options: PackOptions, max_pixels: int, skip: bool
) -> WrittenShard:
    """Write one shard and its index.

    Args:
        out: The folder of shards.
        plan: The samples of the shard.
        listing: The listing of the data set.
        options: The packing options.
        max_pixels: Pixels above which an image counts as bad.
        skip: Whether to leave out images that cannot be read.

    Raises:
        BadShardError: If images cannot be read and `skip` is false. No file is left then.
    """
    split, bad, columns, names = listing.splits[plan.split], [], [], []
    temporary = out / f".{plan.name}.tar"
    try:
        with temporary.open("wb") as file:
            hashed = _HashingFile(file)
            with tarfile.open(fileobj=hashed, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
                for key, name, label, image in _encode_images(plan, split, options, max_pixels, bad=bad):
                    columns.append((tar.offset + tarfile.BLOCKSIZE, len(image.data), label, image.height, image.width))
                    names.append(name)
                    metadata = {"name": name, "class": listing.classes[label]}
                    _add_member(tar, f"{key:08}.{image.suffix}", image.data)
                    _add_member(tar, f"{key:08}.cls", str(label).encode())
                    _add_member(
                        tar, f"{key:08}.json", json.dumps(metadata, ensure_ascii=False).encode("utf-8", "replace")
                    )
            file.flush()
            os.fsync(file.fileno())
        if bad and not skip:
            raise BadShardError(bad)
        temporary.replace(out / f"{plan.name}.tar")
    finally:
        temporary.unlink(missing_ok=True)
    table = np.array(columns, np.int64).reshape(-1, len(COLUMNS))
    rows = ShardRows(*table.T, names=PackedStrings.from_strings(names))
    reasons = PackedStrings.from_strings(bad)
    data = pack_rows(
        rows,
        sha256=np.frombuffer(bytes.fromhex(hashed.sha256), np.uint8),
        bytes=np.array([hashed.num_bytes]),
        bad_text=reasons.text,
        bad_ends=reasons.ends,
    )
    write_atomic(out / f"{plan.name}.npz", data)
    entry = _entry(plan, samples=len(rows), num_bytes=hashed.num_bytes, sha256=hashed.sha256, index=data)
    return WrittenShard(entry, bad, _labels(rows))


def read_written(out: Path, plan: ShardPlan, *, skip: bool) -> WrittenShard | None:
    """Return a shard that an earlier call completed.

    Returns:
        The shard; `None` if it is missing or damaged, or if it lacks bad images although `skip` is false.
    """
    path, index = out / f"{plan.name}.tar", out / f"{plan.name}.npz"
    if not (path.exists() and index.exists()):
        return None
    data = index.read_bytes()
    with suppress(ConfigError, KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        arrays = read_arrays(data, str(index))
        bad = list(PackedStrings.from_buffer(arrays["bad_text"], arrays["bad_ends"]))
        entry = _entry(
            plan,
            samples=len(plan.rows) - len(bad),
            num_bytes=int(arrays["bytes"][0]),
            sha256=arrays["sha256"].tobytes().hex(),
            index=data,
        )
        rows = read_rows(data, entry, num_classes=1 << 62, where=str(index))
        if path.stat().st_size == entry.bytes and (skip or not bad):
            return WrittenShard(entry, bad, _labels(rows))
    return None


def _entry(plan: ShardPlan, *, samples: int, num_bytes: int, sha256: str, index: bytes) -> ShardEntry:
    return ShardEntry(
        file=f"{plan.name}.tar",
        samples=samples,
        bytes=num_bytes,
        sha256=sha256,
        index_sha256=hashlib.sha256(index).hexdigest(),
    )


def _labels(rows: ShardRows) -> frozenset[int]:
    return frozenset(np.unique(rows.label).tolist())


def _encode_images(
    plan: ShardPlan, listing: SplitListing, options: PackOptions, max_pixels: int, *, bad: list[str]
) -> Iterator[tuple[int, str, int, EncodedSample]]:
    """Yield key, name, label and image of each sample; append images that cannot be read to `bad`."""
    for key, row in enumerate(plan.rows.tolist(), start=plan.first_key):
        name = str(listing.names[row])
        try:
            image = encode_sample(read_image_bytes(listing.storage[row]), options, max_pixels)
        except BadImageError as error:
            confirm_shard_of(listing.storage[row])
            bad.append(f"{name}: {error}")
        except OSError as error:
            confirm_shard_of(listing.storage[row])
            bad.append(f"{name}: cannot be read ({error.strerror or error})")
        else:
            yield key, name, listing.labels[row], image


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, BytesIO(data))


class _HashingFile:
    """A file that is written from start to end, and computes its SHA-256 meanwhile."""

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
