"""Names that users extend with their own code: learning rate schedules, optimizers, augmentations.

An installed package extends them through an entry point of the group `resnetlab.extensions`, which names a module that
registers them, or a function that does. Entry points are loaded when a name is unknown without them, and not before.
"""

import difflib
import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from resnetlab.serialization import ConfigError

MIN_SIMILARITY = 0.75
"""Similarity (`difflib.SequenceMatcher.ratio`) from which a name is taken for a typing error of another one."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean NAME?` with the known name that resembles `name`, or nothing if none does.

    A known name resembles it if few letters differ, or if one of the two starts with the other (three letters or more).
    """
    names, word = list(known), name.lower()
    close = difflib.get_close_matches(word, names, n=1, cutoff=MIN_SIMILARITY)
    if not close and len(word) >= 3:
        close = [other for other in names if other.startswith(word)]
        close = close or [other for other in names if len(other) >= 3 and word.startswith(other)]
    return f"; did you mean {close[0]}?" if close else ""


GROUP = "resnetlab.extensions"
"""Group of the entry points of packages that extend resnetlab."""

_loaded: set[str] = set()


def load_extensions() -> None:
    """Load the entry points of all installed packages that were not loaded yet.

    Raises:
        ConfigError: if one cannot be loaded; the message names it and its package.
    """
    for entry in importlib.metadata.entry_points(group=GROUP):
        package = entry.dist.name if entry.dist else "an unknown package"
        key = f"{package}: {entry.name} = {entry.value}"
        if key in _loaded:
            continue
        _loaded.add(key)  # before it is loaded: its own look-ups must not load it again
        try:
            loaded = entry.load()
            if callable(loaded):
                loaded()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"extension {entry.name!r} of the package {package} cannot be loaded ({reason}); repair or uninstall it"
            ) from error


def is_installed_extension(module: str) -> bool:
    """Return whether a module belongs to an installed package with an entry point, so that commands find its names."""
    entries = importlib.metadata.entry_points(group=GROUP)
    return module.partition(".")[0] in {entry.module.partition(".")[0] for entry in entries}


class Registry(Mapping[str, Any]):
    """A mapping from names to functions of one kind; a configuration checks its names here without loading torch."""

    def __init__(self, kind: str, names: tuple[str, ...] = ()) -> None:
        """Declare the built-in `names`, which `define` fills in; `kind` is the word for error messages."""
        self.kind = kind
        self._entries: dict[str, Any] = dict.fromkeys(names)

    def define(self, name: str, entry: Any) -> None:
        """Set the function of a built-in name."""
        assert self._entries[name] is None
        self._entries[name] = entry

    def register(self, name: str, entry: Any) -> None:
        """Add a function under a new name.

        Raises:
            ConfigError: if the name is empty or taken.
        """
        if not name:
            raise ConfigError(f"the {self.kind} has no name")
        if name in self._entries:
            raise ConfigError(f"{self.kind} {name!r} exists already; choose another name")
        self._entries[name] = entry

    def defined(self) -> dict[str, Any]:
        """Return the names whose functions are loaded."""
        return {name: entry for name, entry in self._entries.items() if entry is not None}

    def check(self, name: str) -> None:
        """Raise if a name is unknown.

        Raises:
            ConfigError: listing the known names.
        """
        if name not in self._entries:
            load_extensions()
        if name not in self._entries:
            known = ", ".join(self._entries) or "none"
            raise ConfigError(f"{self.kind} {name!r} is unknown; known: {known}{did_you_mean(name, self._entries)}")

    def __getitem__(self, name: str) -> Any:
        self.check(name)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


SCHEDULES = Registry("schedule", ("constant", "step", "linear", "cosine", "plateau"))
OPTIMIZERS = Registry("optimizer", ("sgd", "adamw", "lamb", "muon"))
AUGMENTATIONS = Registry("augmentation")
