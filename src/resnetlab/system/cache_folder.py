"""The folder for downloaded files, which all commands share."""

import os
from pathlib import Path

VARIABLE = "RESNETLAB_CACHE"
"""Environment variable with the folder; the option `--cache-dir` of every command sets it."""


def cache_folder() -> Path:
    """Return the folder for downloaded files: $RESNETLAB_CACHE, or resnetlab in $XDG_CACHE_HOME or in ~/.cache."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnetlab"
