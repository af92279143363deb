"""Shards behind an address: read whole, one after the other, through a bounded cache on this machine's disk."""

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
from resnetlab.data.images.storage import OpenFile, OpenFileCache
from resnetlab.data.readers.cifar_mnist import cache_folder
from resnetlab.data.registry import INDEX, DatasetListing
from resnetlab.data.sampler import WINDOW
from resnetlab.data.shards.cache import ShardCache
from resnetlab.data.shards.fetch import RemoteError, RemoteReader
from resnetlab.data.shards.format import ShardEntry, ShardIndex, ShardRows, build_listing, read_index, read_rows

__all__ = ["CACHE_GIB", "RemoteError", "list_remote"]

CACHE_GIB = 10.0
"""GiB of the cache, if nobody says otherwise."""
TOUCH_S = 1.0
"""Seconds between two notes that a shard is used."""
AT_ONCE = 8
"""Indices that are fetched at a time."""


def list_remote(config: DataConfig, cache_gib: float = CACHE_GIB) -> DatasetListing:
    """List the images of a folder of shards behind an address; of these only the indices are fetched.

    The cache lies in `config.root`, or in the user's cache folder, in a folder `shards`; processes share it.

    Raises:
        ConfigError: where there is no such folder, an index is damaged, or the cache would not hold `WINDOW` shards and
            one more.
        RemoteError: where the address does not answer.
    """
    source = RemoteReader(config.name)
    try:
        index = read_index(source.small(INDEX), f"{config.name}/{INDEX}")
    except FileNotFoundError:
        raise ConfigError(f"{config.name}: there is no {INDEX}, so no shards that resnetlab data pack made") from None
    root = Path(config.root).expanduser() if config.root else cache_folder()
    cache = ShardCache(root / "shards", int(cache_gib * 2**30))
    _check_room(index, cache_gib)
    entries = [entry for some in index.splits.values() for entry in some]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = dict(zip(entries, pool.map(lambda entry: _rows(source, cache, entry, index), entries), strict=True))
    store = RemoteShardStore(source, cache)
    return build_listing(index, found.__getitem__, lambda entry: RemoteShard(entry, store), sequential=True)


class RemoteShardStore:
    """The shards of one data set, wherever they are at the moment."""

    def __init__(self, source: RemoteReader, cache: ShardCache) -> None:
        """Fetch from `source` what `cache` lacks."""
        self.source, self.cache = source, cache
        self._open = OpenFileCache(2 * WINDOW)
        self._progress = threading.Condition()
        self._begun: set[ShardEntry] = set()
        self._used_s: dict[ShardEntry, float] = {}
        self._failed: RemoteError | None = None

    def open(self, entry: ShardEntry) -> OpenFile:
        """Return a shard, open; it is fetched if need be.

        Raises:
            RemoteError: where it cannot be fetched, and from then on: not each of many threads need find out.
        """
        path = self.cache.path(entry.sha256)
        self._touch(entry, path)
        if entry not in self._begun:
            with self._progress:
                self._begun.add(entry)
                self._progress.notify_all()
        found = self._open.held(path)
        if found is not None:
            return found
        while True:
            if self._failed is not None:
                raise self._failed
            try:
                self.fetch(entry)
            except RemoteError as error:
                self._failed = error
                raise
            except OSError as error:  # of this machine's disk: no image's fault
                folder = self.cache.folder
                self._failed = RemoteError(
                    f"{folder}: the cache cannot be written ({error.strerror or error}); make room, give a smaller "
                    "--cache-gib, or another folder with --data-root"
                )
                raise self._failed from error
            with suppress(FileNotFoundError):  # another process needed the room meanwhile
                return self._open.open(path)

    def _touch(self, entry: ShardEntry, path: Path) -> None:
        """Note now and then that a shard is used."""
        now_s = time.monotonic()
        if now_s - self._used_s.get(entry, -math.inf) > TOUCH_S:
            self._used_s[entry] = now_s
            self.cache.touch(path)

    def fetch(self, entry: ShardEntry, stop: threading.Event | None = None) -> None:
        """See that the cache holds a shard, and make room for it; `stop` ends all waiting.

        Raises:
            RemoteError: where it cannot be fetched.
        """

        def wanted() -> bool:  # not after a failure; and not ahead, where whoever reads was faster and may be done
            return self._failed is None and (stop is None or entry not in self._begun)

        with self.cache.filling(entry.sha256, entry.bytes, wanted) as part:
            if part is None:
                return
            self.source.fetch(entry.file, entry.bytes, entry.sha256, part, stop)
        for path in self.cache.trim():
            self._open.drop(path)

    @contextmanager
    def bring(self, entries: Sequence[ShardEntry]) -> Iterator[None]:
        """Fetch shards before they are read, while the context lasts: so many ahead as the cache has room for."""
        room = self.cache.num_bytes // max(entry.bytes for entry in entries)
        ahead = max(0, min(WINDOW, room - WINDOW))
        stopped = threading.Event()
        with self._progress:
            self._begun.clear()
            self._used_s.clear()

        def run() -> None:
            for number, entry in enumerate(entries):
                with self._progress:
                    self._progress.wait_for(lambda number=number: stopped.is_set() or number < len(self._begun) + ahead)
                if stopped.is_set():
                    return
                try:
                    self.fetch(entry, stopped)
                except (RemoteError, OSError):  # whoever reads it tries again, and says so
                    return

        thread = threading.Thread(target=run, name="shards", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            with self._progress:
                self._progress.notify_all()
            thread.join()


@dataclass(frozen=True)
class RemoteShard:
    """A shard behind an address."""

    entry: ShardEntry
    store: RemoteShardStore

    @property
    def name(self) -> str:
        """Its name there."""
        return f"{self.store.source.address}/{self.entry.file}"

    @property
    def sha256(self) -> str:
        """SHA-256 of the file as it was packed, in hex."""
        return self.entry.sha256

    def open(self) -> OpenFile:
        """Return the file, open; it is fetched if need be.

        Raises:
            RemoteError: where it cannot be fetched.
        """
        return self.store.open(self.entry)

    def blocks(self) -> Iterator[bytes]:
        """Read it from its address a block at a time, past the cache, which neither gives nor gets any of it.

        Raises:
            RemoteError: where it cannot be read.
        """
        return self.store.source.blocks(self.entry.file, self.entry.bytes)

    def bring(self, shards: Sequence["RemoteShard"]) -> AbstractContextManager[None]:
        """Fetch shards before they are read, in their order, while the context lasts."""
        return self.store.bring([shard.entry for shard in shards])


def _check_room(index: ShardIndex, cache_gib: float) -> None:
    largest = max((entry.bytes for entries in index.splits.values() for entry in entries), default=0)
    needed = (WINDOW + 1) * largest / 2**30
    if cache_gib < needed:
        raise ConfigError(
            f"a cache of {cache_gib:g} GiB does not hold {WINDOW + 1} of these shards, among which samples are mixed; "
            f"give --cache-gib {_rounded_up(needed):g} or more"
        )


def _rounded_up(number: float) -> float:
    """Return a number above 0 with three digits, at least as large."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 2)
    return float(f"{math.ceil(number / unit) * unit:.3g}")


def _rows(source: RemoteReader, cache: ShardCache, entry: ShardEntry, index: ShardIndex) -> ShardRows:
    where = f"{source.address}/{entry.index_file}"
    path = cache.path(entry.index_sha256)
    data = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(data).hexdigest() != entry.index_sha256:
        try:
            data = source.small(entry.index_file)
        except FileNotFoundError:
            raise ConfigError(f"{where}: is missing; pack it again") from None
        rows = read_rows(data, entry, len(index.classes), where)
        cache.keep(path, data)
        return rows
    return read_rows(data, entry, len(index.classes), where)
