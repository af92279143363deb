"""Do a network and some images belong together? Classes are matched by name, never by number."""

import unicodedata
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from resnetlab.config import ConfigError
from resnetlab.models.model_card import ModelCard

SHOWN = 8
"""Class names that an error lists of each side."""


def match_classes(
    ours: Sequence[str], theirs: Sequence[str], file: str, data: str, *, allow_missing: bool = False
) -> Tensor:
    """Return which of a network's classes each class of the data is: int64, shape (len(theirs),).

    Args:
        ours: The network's class names.
        theirs: The data's class names.
        file: What an error calls the network.
        data: What an error calls the data.
        allow_missing: Let the data lack some of the network's classes.

    Raises:
        ConfigError: where names differ, and the message lists the differences; or where one side has a name twice.
    """
    for names, whose in ((ours, file), (theirs, data)):
        twice = [name for name, count in Counter(map(_same, names)).items() if count > 1]
        if twice:
            raise ConfigError(f"{whose} has several classes called {_listed(twice)}; give each a name of its own")
    numbers = {_same(name): number for number, name in enumerate(ours)}
    unknown = [name for name in theirs if _same(name) not in numbers]
    known = {_same(name) for name in theirs}
    missing = [name for name in ours if _same(name) not in known]
    if unknown or (missing and not allow_missing):
        said = [f"only {data} has {_listed(unknown)}"] if unknown else []
        said += [f"only {file} has {_listed(missing)}"] if missing else []
        hint = (
            "rename the folders, or the network's classes with: resnetlab inspect MODEL --save NEW --classes NAME …"
            if unknown
            else "judge on these alone with --allow-missing-classes"
        )
        raise ConfigError(f"classes differ: {'; '.join(said)} – {hint}")
    return torch.tensor([numbers[_same(name)] for name in theirs], dtype=torch.int64)


def check_channels(card: ModelCard, channels: int, data: str) -> None:
    """Refuse images of other channels than a network reads.

    Raises:
        ConfigError: naming both.
    """
    if channels != card.model.in_channels:
        raise ConfigError(
            f"{data} has {channels}-channel images, and {card.model.name} reads {card.model.in_channels} channels"
        )


def _same(name: str) -> str:
    """Return a name in the Unicode form in which equal names are equal."""
    return unicodedata.normalize("NFC", name)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
