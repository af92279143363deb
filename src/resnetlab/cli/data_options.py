"""The options that say how your own data are read, which several commands share."""

from typing import Any

READING_FIELDS = ("split_folders", "image_column", "label_column", "color_profiles")
"""Fields of `DataConfig` and options of every command that takes data."""


def reading_options(options: Any) -> dict[str, Any]:
    """Return how data are read, from the options of a command."""
    return {name: getattr(options, name) for name in READING_FIELDS}
