"""Scans over many images in threads: results in order, and each unreadable image with its name and the reason."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from resnetlab.config import ConfigError
from resnetlab.data.images.decode import BadImageError, Header, read_header
from resnetlab.data.images.shard_checks import DamagedShardError
from resnetlab.data.images.storage import ByteRange, ImageStorage, confirm_shard_of, confirm_shards, read_image_bytes
from resnetlab.system.cores import usable_cores

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""A callback with the name of a stage, the number of images done in this stage, and the number of all images."""

CHUNK = 64
"""Number of images in one task of a thread: a task for each small image would cost more than decoding it."""
MAX_NAMED = 3
"""Number of bad images that an error names; `resnetlab data check` lists all of them."""
JPEG_HEAD_BYTES = 1 << 16
"""Number of bytes of a JPEG file that are read first; they usually contain its header."""


class BadDataError(ConfigError):
    """Images that cannot be read; the message has their number, the first names, and the options that help."""

    def __init__(self, bad: Sequence[str], total: int, path: str, *, is_complete: bool = True) -> None:
        """Create the error from every bad image as `NAME: REASON`, of `total` images in the data set at `path`.

        Unless `is_complete`, other images were not looked at.
        """
        self.bad = tuple(bad)
        first = "; ".join(self.bad[:MAX_NAMED]) + ("; …" if len(bad) > MAX_NAMED else "")
        super().__init__(
            f"{'' if is_complete else 'at least '}{len(bad):,} of {total:,} images cannot be read: {first} – list all "
            f"with: resnetlab data check {path}; skip such images with --on-bad-image skip"
        )


def scan_images(
    names: Sequence[str],
    storage: Sequence[ImageStorage],
    function: Callable[[int, bytes], T],
    *,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    skip_damaged_shards: bool = False,
) -> tuple[list[T | None], list[str]]:
    """Call `function` with the position and the encoded bytes of each image, in threads.

    Args:
        names: Name of each image for the list of bad images.
        storage: Storage of each image.
        function: Called with (position, encoded bytes); it raises `BadImageError` for a bad image.
        workers: Number of threads; the number of usable cores if not given.
        on_progress: Called from this thread with the number of images done and the number of all images.
        skip_damaged_shards: Whether images in a damaged shard have no result and are not bad; else it is an error.

    Returns:
        The results in order, `None` for a bad image; and each bad image as `NAME: REASON`.

    Raises:
        ConfigError: If `workers` is below 1.
        DamagedShardError: If a shard is damaged; the images in it are not to blame.
    """

    def scan_one(position: int) -> T | None:
        location = storage[position]
        if skip_damaged_shards:
            try:
                confirm_shard_of(location)
            except DamagedShardError:
                return None
        try:
            return function(position, read_image_bytes(location))
        except (BadImageError, OSError):
            confirm_shard_of(location)
            raise

    scanned = _scan_in_chunks(names, scan_one, workers, on_progress)
    if not skip_damaged_shards:
        confirm_shards(storage)
    return scanned


def scan_headers(
    names: Sequence[str],
    storage: Sequence[ImageStorage],
    max_pixels: int,
    *,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Header | None], list[str]]:
    """Read the header of each image without decoding it; of most JPEG files only the first bytes are read from disk.

    Arguments, results and errors are those of `scan_images`; an image with more than `max_pixels` pixels is bad.
    """

    def scan_one(position: int) -> Header:
        location = storage[position]
        if isinstance(location, bytes | ByteRange):
            return read_header(read_image_bytes(location), max_pixels)
        with location.open("rb") as file:
            data = file.read(JPEG_HEAD_BYTES)
            # JPEG only: other formats may store their orientation at the end of the file.
            if len(data) == JPEG_HEAD_BYTES and data.startswith(b"\xff\xd8"):
                try:
                    return read_header(data, max_pixels)
                except BadImageError:  # a long profile or preview precedes the size
                    pass
            return read_header(data + file.read(), max_pixels)

    return _scan_in_chunks(names, scan_one, workers, on_progress)


def stage_progress(on_progress: Progress, stage: str) -> Callable[[int, int], None]:
    """Return a callback that reports the progress of one stage to `on_progress`."""
    return lambda done, total: on_progress(stage, done, total)


def _scan_in_chunks(
    names: Sequence[str],
    scan_one: Callable[[int], T | None],
    workers: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[list[T | None], list[str]]:
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1, not {workers}")
    total = len(names)

    def scan_chunk(start: int) -> list[tuple[T | None, str]]:
        return [_result_or_reason(scan_one, position) for position in range(start, min(start + CHUNK, total))]

    results: list[T | None] = []
    bad: list[str] = []
    pool = ThreadPoolExecutor(workers or usable_cores())
    try:
        for chunk in pool.map(scan_chunk, range(0, total, CHUNK)):
            for result, reason in chunk:
                if reason:
                    bad.append(f"{names[len(results)]}: {reason}")
                results.append(result)
            if on_progress is not None:
                on_progress(len(results), total)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for the remaining chunks
    return results, bad


def _result_or_reason(scan_one: Callable[[int], T | None], position: int) -> tuple[T | None, str]:
    try:
        return scan_one(position), ""
    except BadImageError as error:
        return None, str(error) or "cannot be decoded"
    except OSError as error:
        return None, f"cannot be read ({error.strerror or error})"
