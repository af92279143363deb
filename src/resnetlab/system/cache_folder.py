"""The folder for downloaded files, which all commands share, and the size of the cache for remote shards in it."""

import math
import os
from pathlib import Path

from resnetlab.serialization import check

VARIABLE = "RESNETLAB_CACHE"
"""Environment variable with the folder; the option `--cache-dir` of every command sets it."""
CACHE_GIB = 10.0
"""Default size of the cache for remote shards, in GiB."""


def cache_folder() -> Path:
    """Return the folder for downloaded files: $RESNETLAB_CACHE, or resnetlab in $XDG_CACHE_HOME or in ~/.cache."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnetlab"


def check_cache_gib(cache_gib: float) -> None:
    """Raise `ConfigError` unless the size of the cache for remote shards, in GiB, is finite and above 0."""
    check(0 < cache_gib < math.inf, f"cache-gib must be a number above 0, not {cache_gib:g}")
