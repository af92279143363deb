"""Class names from a file, as people have them: text (`cat`, `0 cat`, `0: cat`), JSON, YAML or CSV."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnetlab.config import ConfigError

NAME_KEYS = ("names", "classes", "class_names", "labels", "id2label", "categories", "label2id", "class_to_idx")
"""Keys under which JSON and YAML files have the class names."""
NUMBER_COLUMNS = ("id", "index", "idx", "number", "label", "class_id", "class_index", "class_idx", "label_id", "")
NAME_COLUMNS = ("name", "class", "class_name", "classname", "label_name", "category", "label", "species")
_NUMBERED = re.compile(r"(\d+)(?:\s*[:=,;\t]\s*|\s+)(\S.*)")
_QUOTED = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')"""
_YAML_PAIR = re.compile(rf"""({_QUOTED}|[^:#\[\]{{}}"'][^:#\[\]{{}}]*?)\s*:(?:\s+(.*))?""")
_YAML_ITEM = re.compile(rf"""\s*({_QUOTED}|[^\[\]{{}},"'#\s](?:[^\[\]{{}},\s]|\s(?!#))*?)\s*(?:,|(?=\]))""")
MAX_BYTES = 1 << 24


def read_class_list(path: Path) -> tuple[str, ...]:
    """Return the class names in a file, in the order of their numbers if it has numbers, else in its order.

    Raises:
        ConfigError: If the file cannot be read, or has no list of names; the message names the file and what is read.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: has more than {MAX_BYTES:,} bytes, so it is no list of class names")
        text = path.read_bytes().decode("utf-8-sig")  # editors may add a byte order mark
    except OSError as error:
        raise ConfigError(f"{path}: class names cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: class names cannot be read ({error}); save the file as UTF-8") from error
    try:
        if path.suffix.lower() == ".json":
            return _from_values(json.loads(text))
        if path.suffix.lower() in (".yaml", ".yml"):
            return _from_values(_parse_yaml(text))
        if path.suffix.lower() in (".csv", ".tsv"):
            return _from_table(text, "\t" if path.suffix.lower() == ".tsv" else _delimiter(text))
        return _from_lines([line.strip() for line in text.splitlines() if line.strip()])
    except (ValueError, RecursionError, csv.Error) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(
            f"{path}: no list of class names ({reason}); give text with one name a line, a JSON or YAML list or "
            "object of numbers and names, or a CSV with a column of names"
        ) from error


def _from_lines(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the names; numbers in front are removed if they number all lines from 0 or 1."""
    matches = [_NUMBERED.fullmatch(line) for line in lines]
    numbers = [int(match[1]) for match in matches if match]
    if len(numbers) == len(lines) and _is_numbering(numbers):
        return _in_order(numbers, [match[2].strip() for match in matches if match])
    return tuple(lines)


def _from_values(values: Any) -> tuple[str, ...]:
    """Return the names in the values of a JSON or YAML file."""
    if isinstance(values, Mapping):
        inner = next((values[key] for key in NAME_KEYS if isinstance(values.get(key), Mapping | list)), None)
        if inner is not None:
            return _from_values(inner)
        keys, found = list(values), list(values.values())
        if all(_as_number(key) is not None for key in keys):
            numbers, names = [_as_number(key) for key in keys], [_as_name(value) for value in found]
        elif all(_as_number(value) is not None for value in found):
            numbers, names = [_as_number(value) for value in found], keys
        else:
            raise ValueError(f"an object with the keys {', '.join(map(str, keys[:5]))}")
        if not _is_numbering(numbers):
            raise ValueError("its numbers do not run from 0 or 1 without a gap")
        return _in_order(numbers, names)
    if not isinstance(values, list):
        raise ValueError(f"it holds {type(values).__name__}, not a list")
    if values and all(isinstance(value, Mapping) for value in values):
        return _from_objects(values)
    return tuple(_as_name(value) for value in values)


def _from_objects(values: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the names of objects such as `{"id": 0, "name": "cat"}`."""
    name = next((key for key in NAME_COLUMNS if all(isinstance(value.get(key), str) for value in values)), None)
    if name is None:
        raise ValueError(f"its objects have no name, but {', '.join(map(str, list(values[0])[:5]))}")
    number = next(
        (key for key in NUMBER_COLUMNS if all(_as_number(value.get(key)) is not None for value in values)), None
    )
    names = [value[name] for value in values]
    if number is None:
        return tuple(names)
    numbers = [_as_number(value[number]) for value in values]
    if not _is_numbering(numbers):
        raise ValueError(f"the numbers under {number} do not run from 0 or 1 without a gap")
    return _in_order(numbers, names)


def _from_table(text: str, delimiter: str) -> tuple[str, ...]:
    """Return the names of a CSV, whose header may be missing."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows = [[cell.strip() for cell in row] for row in reader if any(row)]
    if not rows or len({len(row) for row in rows}) != 1:
        raise ValueError("its lines have different numbers of columns" if rows else "it is empty")
    header = [cell.lower() for cell in rows[0]]
    has_header = any(cell in (*NAME_COLUMNS, "id", "index", "idx") for cell in header) and not any(
        cell.isdecimal() for cell in header
    )
    body = rows[1:] if has_header else rows
    columns = [list(column) for column in zip(*body, strict=True)]
    numbered = [at for at, column in enumerate(columns) if all(cell.isdecimal() for cell in column)]
    texts = [at for at in range(len(columns)) if at not in numbered]
    if has_header and len(texts) > 1:
        texts = [at for at in texts if header[at] in NAME_COLUMNS][:1] or texts
    if len(texts) != 1 or len(numbered) > 1:
        raise ValueError(f"{len(texts)} of its columns are text and {len(numbered)} numbers, so the names are unclear")
    names = columns[texts[0]]
    if not numbered:
        return tuple(names)
    numbers = [int(cell) for cell in columns[numbered[0]]]
    if not _is_numbering(numbers):
        raise ValueError("its numbers do not run from 0 or 1 without a gap")
    return _in_order(numbers, names)


def _parse_yaml(text: str) -> Any:
    """Return the list or object of a simple YAML file; a full YAML parser is not needed for a list of names."""
    lines = [line.rstrip() for line in text.splitlines()]
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#") and line.strip() != "---"]
    return _parse_block(lines)


def _parse_block(lines: Sequence[str]) -> Any:
    if not lines:
        raise ValueError("it is empty")
    indent = len(lines[0]) - len(lines[0].lstrip())
    if lines[0].lstrip().startswith("- "):
        if not all(line.lstrip().startswith("- ") and len(line) - len(line.lstrip()) == indent for line in lines):
            raise ValueError("only a simple YAML list is read")
        return [_scalar(line.lstrip()[2:]) for line in lines]
    values: dict[str, Any] = {}
    starts = [at for at, line in enumerate(lines) if _is_entry(line, indent)]
    if not starts or starts[0] != 0:
        raise ValueError(f"not understood: {lines[0].strip()[:40]!r}")
    for at, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        match = _YAML_PAIR.fullmatch(lines[at].strip())
        if match is None:
            raise ValueError(f"not understood: {lines[at].strip()[:40]!r}")
        key = str(_scalar(match[1]))
        inner = lines[at + 1 : end]
        values[key] = _scalar(match[2]) if match[2] else _parse_block(inner) if inner else ""
        if match[2] and inner:
            raise ValueError(f"not understood: {inner[0].strip()[:40]!r}")
    return values


def _is_entry(line: str, indent: int) -> bool:
    return len(line) - len(line.lstrip()) == indent and not line.lstrip().startswith("- ")


def _scalar(text: str) -> Any:
    """Return a YAML value: text, quoted text, or a list in brackets."""
    text = text.strip()
    if text[:1] in ('"', "'"):
        quoted = re.fullmatch(rf"({_QUOTED})\s*(?:#.*)?", text)
        if quoted is None:
            raise ValueError(f"text in quotes must end on its line, with nothing after it: {text[:40]!r}")
        value = quoted[1]
        return json.loads(value, strict=False) if value.startswith('"') else value[1:-1].replace("''", "'")
    if text.startswith("["):
        return _bracket_list(text)
    text = re.sub(r"\s+#.*$", "", text)
    if text[:1] in ("{", "&", "*", "!", "|", ">"):
        raise ValueError(f"only simple YAML is read, not {text[:20]!r}")
    return text


def _bracket_list(text: str) -> list[Any]:
    """Return the items of a YAML list in brackets. A comma inside quotes belongs to its item."""
    items, position = [], 1
    while match := _YAML_ITEM.match(text, position):
        items.append(_scalar(match[1]))
        position = match.end()
    if re.fullmatch(r"\s*\]\s*(?:#.*)?", text[position:]) is None:
        raise ValueError(f"a list in brackets must end on its line, and not have {text[position:].strip()[:20]!r}")
    return items


def _delimiter(text: str) -> str:
    first = text.partition("\n")[0]
    return max((",", ";", "\t"), key=first.count)


def _as_name(value: Any) -> str:
    """Return a name; of a list such as `["n01440764", "tench"]`, the last entry."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value[-1]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{str(value)[:40]!r} is no name")
    return str(value)


def _as_number(value: Any) -> int | None:
    """Return a number, also one that is text, or `None`."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        return int(value)
    return value if isinstance(value, int) else None


def _is_numbering(numbers: Sequence[int | None]) -> bool:
    """Return whether numbers run from 0 or 1 without a gap, in any order."""
    known = sorted(number for number in numbers if number is not None)
    return bool(known) and known in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))


def _in_order(numbers: Sequence[int | None], names: Sequence[str]) -> tuple[str, ...]:
    pairs = sorted(zip(numbers, names, strict=True), key=lambda pair: pair[0] or 0)
    return tuple(name for _, name in pairs)
