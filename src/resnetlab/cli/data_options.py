"""The options that say how images are read, declared once for the commands that read some."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from resnetlab.config import READING_FIELDS


@dataclass(frozen=True)
class SplitOptions:
    """Names of the splits, and of the columns of a table."""

    split_folders: str | None = None
    """Folders or files of the splits, such as train=Training,test=Testing; their names decide if not given. all=.
    means that the folders of the data are classes."""
    image_column: str | None = None
    """Column of parquet files with the images; found by type and name if not given."""
    label_column: str | None = None
    """Column of parquet files with the classes; found by name if not given."""


@dataclass(frozen=True)
class ReadingOptions(SplitOptions):
    """Splits, columns and colours of the images; damaged files."""

    data_root: Path | None = None
    """Folder of the archives of a named data set, to which missing ones are downloaded, or of the cache for remote
    shards. If not given: the user's cache folder."""
    color_profiles: Literal["apply", "ignore"] | None = None
    """apply converts colours to sRGB by the embedded ICC profiles, as a viewer does; ignore leaves the pixels as they
    are. If not given: as in the network's file, else apply."""
    on_bad_image: Literal["fail", "skip"] | None = None
    """fail: stop at an image that cannot be read. skip: leave it out and list it. fail if not given."""

    def changes(self) -> dict[str, Any]:
        """Return the fields of `DataConfig` that are given."""
        values = {name: getattr(self, name) for name in READING_FIELDS}
        values["root"] = None if self.data_root is None else str(self.data_root)
        return {name: value for name, value in values.items() if value is not None}


Splits = Annotated[SplitOptions, tyro.conf.OmitArgPrefixes]
"""A field of the options of a command; `--help` lists its options in a box of their own."""
Reading = Annotated[ReadingOptions, tyro.conf.OmitArgPrefixes]
"""As `Splits`, for commands that decode images."""
READING_OPTIONS = tuple(field.name for field in fields(ReadingOptions))
"""Fields of `ReadingOptions`; without images to read they have no effect."""
