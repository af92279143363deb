"""Hold a folder against a second process that would write into it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from resnetlab.serialization import ConfigError

LOCK = ".lock"


def is_locked(out: Path) -> bool:
    """Say whether a process holds a folder."""
    if not (out / LOCK).exists():
        return False
    try:
        with FileLock(out / LOCK, timeout=0):
            return False
    except (Timeout, OSError):
        return True


@contextmanager
def lock_dir(out: Path, who: str) -> Iterator[None]:
    """Make a folder and hold it against another `who`, such as a run; a killed process lets go by itself.

    A folder of which nothing came is removed again.

    Raises:
        ConfigError: where it is in use, or cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise ConfigError(f"{out} is in use by another {who}; wait for it, or choose another with --out") from None
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}); choose another folder with --out") from error
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            if [path.name for path in out.iterdir()] == [LOCK]:
                (out / LOCK).unlink()
                out.rmdir()
