"""Options that every command has: `--debug`, and `--cache-dir`, the folder for downloaded files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GlobalOptions:
    """The values of the options that every command has."""

    debug: bool = False
    """Print the traceback of an error."""
    cache_folder: str | None = None
    """Folder for downloaded files; empty if its option has no value, `None` without the option."""

    def set_cache_folder(self) -> None:
        """Use the folder from here on, and in child processes.

        Raises:
            ConfigError: if the folder is missing, or is a file.
        """
        from resnetlab.config import ConfigError
        from resnetlab.system.cache_folder import VARIABLE

        if self.cache_folder is None:
            return
        if not self.cache_folder:
            raise ConfigError("--cache-dir has no value; it must be a folder for downloaded files")
        if Path(self.cache_folder).is_file():
            raise ConfigError(f"--cache-dir {self.cache_folder} is a file; name a folder")
        os.environ[VARIABLE] = self.cache_folder


def take_global_options(words: Sequence[str]) -> tuple[list[str], GlobalOptions]:
    """Return the words without the options that every command has, and their values."""
    rest: list[str] = []
    debug, folder = False, None
    remaining = iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        if word == "--debug":
            debug = True
        elif option in ("--cache-dir", "--cache_dir"):
            given = value if equals else next(remaining, "")
            folder = "" if given.startswith("--") else given
        else:
            rest.append(word)
    return rest, GlobalOptions(debug, folder)
