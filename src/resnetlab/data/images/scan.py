"""Look at many images at once: results in order, and every bad image with its name and reason."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from resnetlab.config import ConfigError
from resnetlab.data.images.decode import BadImageError, Header, read_header
from resnetlab.data.images.storage import ByteRange, ImageStorage, read_image_bytes
from resnetlab.system.cores import usable_cores

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many images of this stage are done, and how many there are."""

CHUNK = 64
"""Images a thread takes at a time: handing over a single small image would cost more than decoding it."""
SHOWN = 3
"""Bad images an error names; `resnetlab data check` names them all."""
HEAD = 1 << 16
"""Bytes of a JPEG file that are read for its header, before the whole file is."""


class BadDataError(ConfigError):
    """Images that cannot be read; the message counts them, names the first, and says what would work."""

    def __init__(self, bad: Sequence[str], total: int, path: str) -> None:
        """Take every bad image as `NAME: REASON`, of `total` in the data set at `path`."""
        self.bad = tuple(bad)
        first = "; ".join(self.bad[:SHOWN]) + ("; …" if len(bad) > SHOWN else "")
        super().__init__(
            f"{len(bad):,} of {total:,} images cannot be read: {first} – list all with: "
            f"resnetlab data check {path}; skip such images with --on-bad-image skip"
        )


def scan_images(
    names: Sequence[str],
    places: Sequence[ImageStorage],
    look: Callable[[int, bytes], T],
    *,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[T | None], list[str]]:
    """Give each image's position and encoded bytes to `look`, in threads (as many as there are usable cores).

    Returns:
        What `look` returned for each image, in order, `None` for a bad one; and every bad image as `NAME: REASON`.

    Raises:
        ConfigError: where `workers` is below 1.
    """

    def look_at(position: int) -> T:
        return look(position, read_image_bytes(places[position]))

    return _in_chunks(names, look_at, workers, on_progress)


def scan_headers(
    names: Sequence[str],
    places: Sequence[ImageStorage],
    max_pixels: int,
    *,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Header | None], list[str]]:
    """Read the header of each image and decode none: of a JPEG file only the first bytes leave the disk.

    Returns and raises as `scan_images` does.
    """

    def look_at(position: int) -> Header:
        place = places[position]
        if isinstance(place, bytes | ByteRange):
            return read_header(read_image_bytes(place), max_pixels)
        with place.open("rb") as file:
            data = file.read(HEAD)
            if len(data) == HEAD and data.startswith(b"\xff\xd8"):  # others may say how they are turned at their end
                try:
                    return read_header(data, max_pixels)
                except BadImageError:  # a long profile or preview stands before the size
                    pass
            return read_header(data + file.read(), max_pixels)

    return _in_chunks(names, look_at, workers, on_progress)


def stage_progress(tell: Progress, name: str) -> Callable[[int, int], None]:
    """Return what tells `tell` of the progress of one stage."""
    return lambda done, total: tell(name, done, total)


def _in_chunks(
    names: Sequence[str],
    look_at: Callable[[int], T],
    workers: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[list[T | None], list[str]]:
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1, not {workers}")
    total = len(names)

    def chunk(start: int) -> list[tuple[T | None, str]]:
        return [_one(look_at, position) for position in range(start, min(start + CHUNK, total))]

    results: list[T | None] = []
    bad: list[str] = []
    pool = ThreadPoolExecutor(workers or usable_cores())
    try:
        for found in pool.map(chunk, range(0, total, CHUNK)):
            for result, reason in found:
                if reason:
                    bad.append(f"{names[len(results)]}: {reason}")
                results.append(result)
            if on_progress is not None:
                on_progress(len(results), total)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C nobody waits for images that nobody asked for
    return results, bad


def _one(look_at: Callable[[int], T], position: int) -> tuple[T | None, str]:
    try:
        return look_at(position), ""
    except BadImageError as error:
        return None, str(error) or "cannot be decoded"
    except OSError as error:
        return None, f"cannot be read ({error.strerror or error})"
