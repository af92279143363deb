"""Names that users extend with their own code: learning rate schedules, optimizers, augmentations."""

import difflib
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

    def check(self, name: str) -> None:
        """Raise if a name is unknown.

        Raises:
            ConfigError: listing the known names.
        """
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
