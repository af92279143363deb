"""The image and label columns of a parquet file: named by options, or found where only one choice is possible."""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetlab.config import ConfigError
from resnetlab.data.images.sniff import detect_format
from resnetlab.data.left_out import join_names, shorten
from resnetlab.data.readers.table_columns import SPLIT_COLUMN

if TYPE_CHECKING:
    from pyarrow import Schema
    from pyarrow.parquet import ParquetFile

IMAGE_COLUMNS = ("image", "img", "images", "picture", "photo", "jpg", "jpeg", "png", "image_bytes", "image_data")
"""Names of the image column among several columns with images."""
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
"""Names of label columns; the first that exists is used. No other name is a label without --label-column."""
NO_LABEL = re.compile(r"_*index.*|.*id|idx|path|file.*|url|width|height|size|row|split|fold|time.*|date", re.IGNORECASE)
"""Names of columns that an error does not propose as labels."""
LABEL_KINDS = ("int", "text", "float", "bool")
SNIFFED_ROWS = 4
"""Rows whose first bytes decide whether a column of bytes holds images."""
LISTED_WIDTH = 160
"""Characters of the columns that an error lists."""


@dataclass(frozen=True)
class Columns:
    """The image and label columns of a file, and the class names from its metadata."""

    image: str
    nested: bool
    """Whether the image column is a structure of bytes and path instead of bytes."""
    label: str
    classes: tuple[str, ...] | None
    """Class names from the file's metadata, or `None`."""
    warnings: tuple[str, ...] = ()
    """Other columns that could have been meant."""


def find_columns(file: "ParquetFile", path: Path, *, image: str | None = None, label: str | None = None) -> Columns:
    """Return the image and label columns of a file.

    Without `image`, the only column that holds encoded images is taken; among several, the only one with a name of
    `IMAGE_COLUMNS`. Without `label`, a column with a name of `LABEL_COLUMNS` or, by Hugging Face's metadata, the only
    one with class labels is taken.

    Raises:
        ConfigError: If a named column does not exist or has another type, or if no or several columns fit; the message
            lists the columns and names the option.
    """
    schema = file.schema_arrow
    features, kinds = _features(schema), {name: column_kind(schema.field(name).type) for name in schema.names}
    image, warnings = _image_column(file, path, kinds, features, image)
    label, more = _label_column(path, schema, {name: kind for name, kind in kinds.items() if name != image}, label)
    names = features.get(label, {}).get("names") if _is_class_label(features, kinds, label) else None
    unread = tuple(
        f"{path.name}: column {shorten(name)} is not read; make one file of each split, named after it"
        for name in schema.names
        if name.casefold() == SPLIT_COLUMN and name not in (image, label)
    )
    return Columns(image, kinds[image] == "struct", label, _class_names(names), warnings + more + unread)


def _class_names(names: Sequence[Any] | None) -> tuple[str, ...] | None:
    """Return class names as text in Unicode form NFC, as folders of classes have them."""
    return tuple(unicodedata.normalize("NFC", str(name)) for name in names) if names else None


def column_kind(arrow_type: Any) -> str:
    """Return `struct` or `bytes` for an image column, `int`, `text`, `float` or `bool` for a label, else ""."""
    from pyarrow import types

    if types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    if types.is_struct(arrow_type):
        return "struct" if arrow_type.get_field_index("bytes") >= 0 else ""
    tests = {
        "bytes": ("is_binary", "is_large_binary", "is_binary_view"),
        "text": ("is_string", "is_large_string", "is_string_view"),
        "int": ("is_integer",),
        "float": ("is_floating",),
        "bool": ("is_boolean",),
    }
    for kind, names in tests.items():
        if any(getattr(types, name)(arrow_type) for name in names):
            return kind
    return ""


def _image_column(
    file: "ParquetFile", path: Path, kinds: dict[str, str], features: dict[str, Any], given: str | None
) -> tuple[str, tuple[str, ...]]:
    """Return the image column, and a warning if others hold images as well."""
    listed = _list_columns(file.schema_arrow)
    by_type = [name for name, kind in kinds.items() if kind in ("struct", "bytes")]
    if given is not None:
        if given not in kinds:
            raise ConfigError(f"{path}: has no column {given!r} for --image-column; columns: {listed}")
        if given not in by_type:
            raise ConfigError(f"{path}: column {given!r} does not hold images as bytes; columns: {listed}")
        return given, ()
    if not by_type:
        raise ConfigError(f"{path}: no column holds images as bytes; columns: {listed}")
    images = [name for name in by_type if features.get(name, {}).get("_type") == "Image"] or by_type
    if len(images) > 1:
        images = _with_images(file, path, images) or images
    if len(images) == 1:
        return images[0], ()
    named = [name for name in images if name.lower() in IMAGE_COLUMNS]
    named = [name for name in named if name == "image"] or named
    if len(named) != 1:
        raise ConfigError(
            f"{path}: several columns hold images ({join_names(images, 60)}); name one with --image-column "
            f"{shorten(named[0] if named else images[0])}; columns: {listed}"
        )
    others = [name for name in images if name != named[0]]
    return named[0], (f"column {named[0]} is read; {join_names(others, 60)} also holds images (--image-column)",)


def _label_column(
    path: Path, schema: "Schema", kinds: dict[str, str], given: str | None
) -> tuple[str, tuple[str, ...]]:
    """Return the label column, and a warning if others could be meant."""
    listed = _list_columns(schema)
    if given is not None:
        if given not in schema.names:
            raise ConfigError(f"{path}: has no column {given!r} for --label-column; columns: {listed}")
        if kinds.get(given, "") not in LABEL_KINDS:
            raise ConfigError(
                f"{path}: column {given!r} cannot be the label: it has type {_type(schema, given)}, and a label is a "
                "whole number or text"
            )
        return given, ()
    features = _features(schema)
    usable = [name for name, kind in kinds.items() if kind in LABEL_KINDS]
    named = sorted(
        (name for name in usable if name.lower() in LABEL_COLUMNS),
        key=lambda name: (LABEL_COLUMNS.index(name.lower()), name.lower() != name),
    )
    declared = [name for name in usable if _is_class_label(features, kinds, name)]
    candidates = [name for name in named if name in declared] or declared or named
    if not candidates or (candidates == declared and len(declared) > 1 and declared[0] not in named):
        problem = f"several columns hold labels ({join_names(declared, 60)})" if declared else _no_label(schema, kinds)
        likely = [name for name in usable if not NO_LABEL.fullmatch(name)]
        example = next(iter(candidates or sorted(likely, key=lambda name: kinds[name] != "text")), "COLUMN")
        raise ConfigError(
            f"{path}: {problem}; name the column with --label-column {shorten(example)}; columns: {listed}"
        )
    others = [name for name in dict.fromkeys([*named, *declared]) if name != candidates[0]]
    taken = f"column {candidates[0]} is read; {join_names(others, 60)} may be the label too (--label-column)"
    return candidates[0], (taken,) if others else ()


def _no_label(schema: "Schema", kinds: dict[str, str]) -> str:
    """Return why no column is the label."""
    unusable = [name for name in schema.names if name.lower() in LABEL_COLUMNS and name in kinds]
    if unusable:
        return f"column {unusable[0]} has type {_type(schema, unusable[0])}, and a label is a whole number or text"
    return f"no column is called {', '.join(LABEL_COLUMNS[:-1])} or {LABEL_COLUMNS[-1]}"


def _with_images(file: "ParquetFile", path: Path, columns: Sequence[str]) -> list[str]:
    """Return the columns whose first values start as an image; other bytes are hashes, sound or embeddings."""
    import pyarrow

    found = []
    try:
        batch = next(iter(file.iter_batches(SNIFFED_ROWS, columns=list(columns))), None)
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigError(f"{path}: damaged ({' '.join(str(error).split())})") from error
    if batch is None:
        return []
    for name in columns:
        values = batch.column(name).to_pylist()
        contents = [value.get("bytes") if isinstance(value, dict) else value for value in values]
        if any(content and detect_format(content) is not None for content in contents):
            found.append(name)
    return found


def _is_class_label(features: dict[str, Any], kinds: dict[str, str], name: str) -> bool:
    return features.get(name, {}).get("_type") == "ClassLabel" and kinds.get(name) == "int"


def _features(schema: "Schema") -> dict[str, Any]:
    """Return Hugging Face's metadata of each column; empty if there is none or it cannot be parsed."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: value for name, value in features.items() if isinstance(value, dict)}


def _list_columns(schema: "Schema") -> str:
    return join_names([f"{shorten(name, 30)} ({_type(schema, name)})" for name in schema.names], LISTED_WIDTH) or "none"


def _type(schema: "Schema", name: str) -> str:
    return shorten(str(schema.field(name).type), 40)
