"""Checks that a network fits a data set; classes are matched by name, never by number."""

import unicodedata
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from resnetlab.config import ConfigError
from resnetlab.literature.class_names import WNID, name_wnids
from resnetlab.models.model_card import ModelCard

MAX_NAMES = 8
"""Maximum number of class names that an error lists for each side."""


def check_one_class(*, multi_label: bool, name: str, use: str) -> None:
    """Raise if images have several labels; `name` is that of the data, `use` the feature that needs one class.

    Raises:
        ConfigError: in this case.
    """
    if multi_label:
        raise ConfigError(f"{use} needs one class an image, and images of {name} have several labels")


def match_classes(
    model_classes: Sequence[str],
    data_classes: Sequence[str],
    *,
    model_name: str,
    data_name: str,
    allow_missing: bool = False,
    hint: str | None = None,
) -> Tensor:
    """Return the model's class index for each class of the data: int64, shape (len(data_classes),).

    WordNet IDs of ImageNet's classes, as its folders are called, match the names of published networks.

    Args:
        model_classes: Class names of the network.
        data_classes: Class names of the data.
        model_name: Name of the network in error messages.
        data_name: Name of the data in error messages.
        allow_missing: Accept data without some of the network's classes.
        hint: What would work if names differ; advice on data, in the options of `evaluate`, if not given.

    Raises:
        ConfigError: if names differ (the message lists the differences), or if one side has a name twice.
    """
    for classes, owner in ((model_classes, model_name), (data_classes, data_name)):
        duplicates = [name for name, count in Counter(map(_normal_form, classes)).items() if count > 1]
        if duplicates:
            raise ConfigError(f"{owner} has several classes called {_join_names(duplicates)}; give each a unique name")
    data_classes = _translate_wnids(model_classes, data_classes)
    index_of = {_normal_form(name): index for index, name in enumerate(model_classes)}
    in_data = {_normal_form(name) for name in data_classes}
    only_data = [name for name in data_classes if _normal_form(name) not in index_of]
    only_model = [name for name in model_classes if _normal_form(name) not in in_data]
    if only_data or (only_model and not allow_missing):
        differences = [f"only {data_name} has {_join_names(only_data)}"] if only_data else []
        differences += [f"only {model_name} has {_join_names(only_model)}"] if only_model else []
        hint = hint or (
            "rename the folders, or the network's classes with: resnetlab inspect MODEL --save NEW --classes NAME …"
            if only_data
            else "evaluate on the others with --allow-missing-classes"
        )
        raise ConfigError(f"classes differ: {'; '.join(differences)} – {hint}")
    return torch.tensor([index_of[_normal_form(name)] for name in data_classes], dtype=torch.int64)


def _translate_wnids(model_classes: Sequence[str], data_classes: Sequence[str]) -> Sequence[str]:
    """Return the names of data whose classes are WordNet IDs, as ImageNet's folders, if the network has names."""
    if any(WNID.fullmatch(name) for name in model_classes):
        return data_classes
    return name_wnids(data_classes) or data_classes


def check_channels(card: ModelCard, channels: int, data_name: str) -> None:
    """Raise if images have another number of channels than the network.

    Raises:
        ConfigError: if the numbers differ; the message has both.
    """
    if channels != card.model.in_channels:
        raise ConfigError(
            f"{data_name} has {channels}-channel images, and {card.model.name} reads {card.model.in_channels} channels"
        )


def _normal_form(name: str) -> str:
    """Return a name in Unicode normal form C, in which equal names compare equal."""
    return unicodedata.normalize("NFC", name)


def _join_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
