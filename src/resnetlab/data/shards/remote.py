"""Shards behind a URL, downloaded whole and one after the other into a cache of limited size on the local disk."""

import hashlib
import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.images.shard_checks import find_damage
from resnetlab.data.images.storage import OpenFile, OpenFileCache
from resnetlab.data.listing import DatasetListing
from resnetlab.data.registry import INDEX_FILE
from resnetlab.data.sampler import SHUFFLE_WINDOW
from resnetlab.data.shards.cache import ShardCache
from resnetlab.data.shards.fetch import LOG, RemoteError, RemoteReader
from resnetlab.data.shards.format import ShardEntry, ShardIndex, ShardRows, build_listing, read_index, read_rows
from resnetlab.system.cache_folder import CACHE_GIB, cache_folder

__all__ = ["CACHE_GIB", "RemoteError", "list_remote"]

TOUCH_INTERVAL_S = 1.0
"""Seconds between two updates of a shard's time of last use."""
MAX_ROWS_BYTES, MAX_EMPTY_BYTES = 1 << 30, 1 << 20
"""Most bytes of a shard's index, and of that of an empty shard: each sample needs far fewer than in the shard."""
MAX_INDEX_DOWNLOADS = 8
"""Index files that are downloaded at the same time."""


def list_remote(config: DataConfig, cache_gib: float = CACHE_GIB) -> DatasetListing:
    """List the images of a folder of shards behind a URL; only the index files are downloaded.

    The cache is the folder `shards` in `config.root`, or in the user's cache folder. Processes share it.

    Raises:
        ConfigError: If the URL has no shards, an index is damaged, or the cache is too small for `SHUFFLE_WINDOW` + 1
            shards.
        RemoteError: If the server does not answer.
    """
    reader = RemoteReader(config.name)
    try:
        index = read_index(reader.read_small(INDEX_FILE), f"{config.name}/{INDEX_FILE}")
    except FileNotFoundError:
        raise ConfigError(
            f"{config.name}: has no {INDEX_FILE}; give the URL of shards from resnetlab data pack"
        ) from None
    root = Path(config.root).expanduser() if config.root else cache_folder()
    cache = ShardCache(root / "shards", int(cache_gib * 2**30))
    _check_cache_size(index, cache_gib)
    entries = [entry for split in index.splits.values() for entry in split]
    with ThreadPoolExecutor(MAX_INDEX_DOWNLOADS) as pool:
        all_rows = pool.map(lambda entry: _read_rows(reader, cache, entry, index=index), entries)
        rows = dict(zip(entries, all_rows, strict=True))
    store = RemoteShardStore(reader, cache)
    return build_listing(index, rows.__getitem__, lambda entry: RemoteShard(entry, store), sequential=True)


class RemoteShardStore:
    """The shards of one data set, in the cache or still remote."""

    def __init__(self, reader: RemoteReader, cache: ShardCache) -> None:
        """Download with `reader` the shards that `cache` does not have."""
        self.reader, self.cache = reader, cache
        self._open_files = OpenFileCache(2 * SHUFFLE_WINDOW)
        self._progress = threading.Condition()
        self._started: set[ShardEntry] = set()
        self._touched_s: dict[ShardEntry, float] = {}
        self._error: RemoteError | None = None
        self._intact: set[str] = set()
        self._confirmed: set[str] = set()

    def open(self, entry: ShardEntry) -> OpenFile:
        """Return the open file of a shard; download the shard first if the cache does not have it.

        Raises:
            RemoteError: If the download fails. All later calls then raise the same error, so that each of many threads
                need not wait for its own attempts.
        """
        path = self.cache.path(entry.sha256)
        self._touch(entry, path)
        if entry not in self._started:
            with self._progress:
                self._started.add(entry)
                self._progress.notify_all()
        file = self._open_files.get(path)
        if file is not None:
            return file
        while True:
            if self._error is not None:
                raise self._error
            try:
                self.download(entry)
            except RemoteError as error:
                self._error = error
                raise
            except OSError as error:  # the local disk, not a bad image
                folder = self.cache.folder
                self._error = RemoteError(
                    f"{folder}: the cache cannot be written ({error.strerror or error}); free some space, or give a "
                    "smaller --cache-gib or another --data-root"
                )
                raise self._error from error
            with suppress(FileNotFoundError):  # another process has deleted it meanwhile, to free space
                return self._open_files.open(path)

    def _touch(self, entry: ShardEntry, path: Path) -> None:
        """Record that a shard is in use, once in `TOUCH_INTERVAL_S`."""
        now_s = time.monotonic()
        if now_s - self._touched_s.get(entry, -math.inf) > TOUCH_INTERVAL_S:
            self._touched_s[entry] = now_s
            self.cache.touch(path)

    def download(self, entry: ShardEntry, stop: threading.Event | None = None) -> None:
        """Download a shard into the cache unless it is there, and delete others to make room.

        `stop` is set by `prefetch` to end the download early.

        Raises:
            RemoteError: If the download fails.
        """

        def is_needed() -> bool:  # not after a failure; a prefetch is not needed once the reader has started the shard
            return self._error is None and (stop is None or entry not in self._started)

        def is_intact(path: Path) -> bool:  # once in a process, ahead of the reader if `prefetch` does it
            if entry.sha256 in self._intact or not find_damage(path, entry.sha256):
                self._intact.add(entry.sha256)
                return True
            LOG.warning("%s: the cached %s is damaged; downloading it again", path, entry.file)
            return False

        with self.cache.fill(entry.sha256, entry.bytes, is_needed, is_intact) as partial:
            if partial is None:
                return
            self.reader.download(entry.file, partial, num_bytes=entry.bytes, sha256=entry.sha256, stop=stop)
            self._intact.add(entry.sha256)
        for path in self.cache.trim():
            self._open_files.discard(path)

    def confirm(self, entry: ShardEntry) -> None:
        """Check the cached file of a shard again, once, because an image in it cannot be decoded.

        Raises:
            RemoteError: If the file was damaged since it was opened. It is deleted.
        """
        if entry.sha256 in self._confirmed:
            return
        path = self.cache.path(entry.sha256)
        if path.exists() and find_damage(path, entry.sha256):
            path.unlink(missing_ok=True)
            self._open_files.discard(path)
            self._intact.discard(entry.sha256)
            raise RemoteError(
                f"{path}: the cached {entry.file} was damaged while it was read, and is deleted; run the same command "
                "again, which downloads it"
            )
        self._confirmed.add(entry.sha256)

    @contextmanager
    def prefetch(self, entries: Sequence[ShardEntry]) -> Iterator[None]:
        """Download shards before they are read, while the context is active, as far ahead as the cache allows."""
        capacity = self.cache.num_bytes // max(entry.bytes for entry in entries)
        num_ahead = max(0, min(SHUFFLE_WINDOW, capacity - SHUFFLE_WINDOW))
        stop = threading.Event()
        with self._progress:
            self._started.clear()
            self._touched_s.clear()

        def run() -> None:
            for number, entry in enumerate(entries):
                with self._progress:
                    self._progress.wait_for(
                        lambda number=number: stop.is_set() or number < len(self._started) + num_ahead
                    )
                if stop.is_set():
                    return
                try:
                    self.download(entry, stop)
                except (RemoteError, OSError):  # the reader of the shard tries again, and raises
                    return

        thread = threading.Thread(target=run, name="shards", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            with self._progress:
                self._progress.notify_all()
            thread.join()


@dataclass(frozen=True)
class RemoteShard:
    """A shard behind a URL."""

    entry: ShardEntry
    store: RemoteShardStore

    @property
    def name(self) -> str:
        """The shard's URL."""
        return f"{self.store.reader.url}/{self.entry.file}"

    @property
    def sha256(self) -> str:
        """SHA-256 of the file as it was packed, in hex."""
        return self.entry.sha256

    def open(self) -> OpenFile:
        """Return the open file; download it first if the cache does not have it.

        Raises:
            RemoteError: If the download fails.
        """
        return self.store.open(self.entry)

    def confirm(self) -> None:
        """Check the cached file once more.

        Raises:
            RemoteError: If it was damaged since it was opened.
        """
        self.store.confirm(self.entry)

    def blocks(self) -> Iterator[bytes]:
        """Yield the shard in blocks from its URL; the cache is neither read nor written.

        Raises:
            RemoteError: If the shard cannot be read.
        """
        return self.store.reader.blocks(self.entry.file, self.entry.bytes)

    def prefetch(self, shards: Sequence["RemoteShard"]) -> AbstractContextManager[None]:
        """Download shards in the given order, ahead of reads, while the context is active."""
        return self.store.prefetch([shard.entry for shard in shards])


def _check_cache_size(index: ShardIndex, cache_gib: float) -> None:
    """Raise `ConfigError` unless the cache has room for the shards of the shuffle window and one more."""
    largest = max((entry.bytes for entries in index.splits.values() for entry in entries), default=0)
    needed_gib = (SHUFFLE_WINDOW + 1) * largest / 2**30
    if cache_gib < needed_gib:
        raise ConfigError(
            f"a cache of {cache_gib:g} GiB is too small for the {SHUFFLE_WINDOW + 1} shards that shuffling needs at a "
            f"time; give --cache-gib {_rounded_up(needed_gib):g} or more"
        )


def _rounded_up(number: float) -> float:
    """Return a positive number rounded up to three significant digits."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 2)
    return float(f"{math.ceil(number / unit) * unit:.3g}")


def _read_rows(reader: RemoteReader, cache: ShardCache, entry: ShardEntry, *, index: ShardIndex) -> ShardRows:
    """Return the samples of a shard from its index file, which is downloaded unless the cache has it."""
    where = f"{reader.url}/{entry.index_file}"
    path = cache.path(entry.index_sha256)
    data = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(data).hexdigest() != entry.index_sha256:
        try:
            data = reader.read_small(entry.index_file, min(MAX_ROWS_BYTES, entry.bytes + MAX_EMPTY_BYTES))
        except FileNotFoundError:
            raise ConfigError(f"{where}: does not exist; pack it again") from None
        rows = read_rows(data, entry, num_classes=len(index.classes), where=where)
        cache.store(path, data)
        return rows
    return read_rows(data, entry, num_classes=len(index.classes), where=where)
