"""Checks of the labels in tables and parquet files: missing values, and numbers that are no classes."""

import re
from collections.abc import Mapping
from decimal import Decimal

from resnetlab.config import ConfigError
from resnetlab.data.left_out import shorten

MIN_SUSPICIOUS = 10
"""Number of images from which a class for each of them is reported."""
MISSING = -1
"""The number that Hugging Face's data sets have for a label that is not published."""
MISSING_WORDS = ("nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nil")
"""Words that programs write for a missing value, in lower case; a class may have such a name too."""
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


def check_label_values(splits: Mapping[str, Mapping[str, str]], *, column: str, remedy: str) -> tuple[str, ...]:
    """Return a warning for each label that may stand for a missing value.

    Args:
        splits: Each label of each split as text, with its first place.
        column: The column of the labels.
        remedy: What to do about a column that holds no classes.

    Raises:
        ConfigError: If a label is missing: `-1` as all labels of a split, or as the only negative number beside others
            than 1; if all labels are numbers, some not whole; or if two labels are one number, such as `1` and `01`.
    """
    first = {label: where for labels in splits.values() for label, where in labels.items()}
    numbers = {label: Decimal(label) for label in first if NUMBER.fullmatch(label)}
    for labels in splits.values():
        _refuse_missing_number(labels, numbers, first)
    words = [label for label in first if label.casefold() in MISSING_WORDS]
    fractions = [label for label, number in numbers.items() if number != number.to_integral_value()]
    if fractions and len(numbers) + len(words) == len(first):
        label = fractions[0]
        raise ConfigError(
            f"{first[label]}: {column} is {shorten(label)}, and a label is a whole number or text; {remedy}"
        )
    spelled: dict[Decimal, str] = {}
    for label, number in numbers.items():
        other = spelled.setdefault(number, label)
        if other != label:
            raise ConfigError(
                f"{first[label]}: the labels {shorten(other)} and {shorten(label)} are one number; write it in one way"
            )
    return tuple(
        f"{shorten(label)} is read as a class; if it stands for a missing label, remove such rows ({first[label]})"
        for label in words
    )


def class_each_warning(num_images: int, num_classes: int, column: str, remedy: str) -> tuple[str, ...]:
    """Return a warning if each of many images has a class of its own."""
    if num_images != num_classes or num_images < MIN_SUSPICIOUS:
        return ()
    return (f"each of the {num_images:,} images has a class of its own; is {column} the label? ({remedy})",)


def _refuse_missing_number(labels: Mapping[str, str], numbers: Mapping[str, Decimal], first: Mapping[str, str]) -> None:
    """Raise if -1 stands for a missing label in a split; -1 and 1 are two classes."""
    missing = next((label for label in labels if numbers.get(label) == MISSING), None)
    if missing is None:
        return
    negative = any(number < MISSING for number in numbers.values())
    is_sign = {numbers.get(label) for label in first} == {MISSING, 1}
    if len(labels) == 1 or not (negative or is_sign):
        raise ConfigError(
            f"{labels[missing]}: the label is missing ({missing}); add it, remove the row, or write the classes as "
            "words if it is one"
        )
