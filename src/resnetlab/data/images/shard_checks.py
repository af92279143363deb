"""Checks of local shards: the SHA-256 of each file that this process opens, computed once in a background thread.

Images are read meanwhile. A damaged shard is an error at the next read of it, and at the end of a pass over its images
at the latest, so that no result rests on it.
"""

import hashlib
import os
import threading
from collections import deque
from pathlib import Path

from resnetlab.config import ConfigError


class DamagedShardError(ConfigError):
    """A shard that differs from its SHA-256 or cannot be read; the message names the shard, never an image in it."""


Identity = tuple[int, int, int, int]
"""Device, inode, size and modification time of a file, which a replaced file changes."""


class ShardChecks:
    """The state of every check of this process. Forked processes inherit finished checks."""

    def __init__(self) -> None:
        """Start without a check; the thread starts with the first one and ends when none is left."""
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Path, str]] = deque()
        self._pending: set[Path] = set()
        self._done: dict[Path, tuple[Identity | None, str]] = {}
        self._num_running = 0

    def require(self, path: Path, sha256: str) -> None:
        """Start the check of a shard unless it was started; raise if the shard is known to be damaged.

        Raises:
            DamagedShardError: If the shard differs from `sha256`, in hex.
        """
        done = self._done.get(path)
        if done is not None:
            if done[1]:
                raise DamagedShardError(done[1])
        elif path not in self._pending and is_checked_here(path):
            self._start(path, sha256)

    def wait(self, path: Path, sha256: str) -> None:
        """Wait for the check of a shard, which comes before others; start it if necessary.

        Raises:
            DamagedShardError: As `require`.
        """
        if path not in self._done:
            self._start(path, sha256, first=True)
            with self._changed:
                self._changed.wait_for(lambda: path in self._done)
        self.require(path, sha256)

    def forget_changed(self, path: Path) -> bool:
        """Forget the check of a file that was replaced since; return whether it was."""
        done = self._done.get(path)
        if done is None or done[0] == _identity(path):
            return False
        with self._changed:
            self._done.pop(path, None)
        return True

    def reset_after_fork(self) -> None:
        """Forget unfinished checks, whose thread does not exist in a forked process."""
        self._changed, self._num_running = threading.Condition(), 0
        self._waiting.clear()
        self._pending.clear()

    def _start(self, path: Path, sha256: str, *, first: bool = False) -> None:
        with self._changed:
            if path in self._done or (path in self._pending and not first):
                return
            if path in self._pending:
                if (path, sha256) in self._waiting:
                    self._waiting.remove((path, sha256))
                    self._waiting.appendleft((path, sha256))
                return
            self._pending.add(path)
            (self._waiting.appendleft if first else self._waiting.append)((path, sha256))
            if self._num_running == 0:
                self._num_running = 1
                threading.Thread(target=self._run, name="shard checks", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._num_running = 0
                    return
                path, sha256 = self._waiting.popleft()
            identity = _identity(path)
            reason = find_damage(path, sha256)
            with self._changed:
                self._done[path] = (identity, reason)
                self._pending.discard(path)
                self._changed.notify_all()


def find_damage(path: Path, sha256: str) -> str:
    """Read a whole shard; return what is wrong with it, with its path, or an empty string."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror or error}); pack it again, or copy it again"
    if found == sha256:
        return ""
    return (
        f"{path}: this shard is damaged (its SHA-256 differs from index.json), its images are not to blame; "
        "pack it again, or copy it again"
    )


def is_checked_here(path: Path) -> bool:
    """Return whether this process checks a shard: torchrun's processes of one machine divide them by their names."""
    try:
        size, rank = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    except ValueError:
        return True
    return size < 2 or int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % size == rank % size


def _identity(path: Path) -> Identity | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


SHARD_CHECKS = ShardChecks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SHARD_CHECKS.reset_after_fork)
