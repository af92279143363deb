"""A lock on an output folder, so that only one process writes into it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from resnetlab.serialization import ConfigError

LOCK = ".lock"


def is_locked(out: Path) -> bool:
    """Return whether a process holds the lock of a folder."""
    if not (out / LOCK).exists():
        return False
    try:
        with FileLock(out / LOCK, timeout=0):
            return False
    except (Timeout, OSError):
        return True


@contextmanager
def lock_dir(out: Path, purpose: str) -> Iterator[None]:
    """Create a folder and hold its lock. The lock of a killed process is released by the operating system.

    A folder that holds nothing but the lock at the end is removed.

    Args:
        out: The folder.
        purpose: What the folder is for, such as `run`; the error message names it.

    Raises:
        ConfigError: If another process holds the lock, or the folder cannot be created.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"{out} is in use by another {purpose}; wait until it ends, or give another folder with --out"
        ) from None
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}); give another folder with --out") from error
    try:
        yield
    finally:
        if os.name == "posix":  # while the lock is held: after the release it may be that of another process
            _remove_empty(out)
            lock.release()
        else:  # an open file cannot be deleted
            lock.release()
            _remove_empty(out)


def _remove_empty(out: Path) -> None:
    """Remove a folder that holds nothing but the lock."""
    with suppress(OSError):
        if [path.name for path in out.iterdir()] == [LOCK]:
            (out / LOCK).unlink()
            out.rmdir()
