"""The options that say how your own data are read, which several commands share."""

from typing import Any

from resnetlab.config import READING_FIELDS


def reading_options(options: Any) -> dict[str, Any]:
    """Return how data are read, from the options of a command."""
    return {name: getattr(options, name) for name in READING_FIELDS}


def training_data_changes(options: Any) -> dict[str, Any]:
    """Return the fields of the training data that options replace: how data are read, and where they are."""
    changes = {name: value for name, value in reading_options(options).items() if value is not None}
    return changes if options.data_root is None else {"root": str(options.data_root), **changes}
