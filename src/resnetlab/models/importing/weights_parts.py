"""Networks that are stored in several files, such as `model-00001-of-00002.safetensors`."""

import hashlib
import re
from pathlib import Path

from resnetlab.models.model_card import ModelFileError
from resnetlab.system.download import file_digest

PART = re.compile(r"(.+)-(\d{1,6})-of-(\d{1,4}|0\d{4,5})(\.\w+)")
"""Name of one file of a network that is stored in several."""


def find_parts(path: Path) -> list[Path]:
    """Return the files of a set such as `model-00001-of-00002.safetensors`; of any other file, the file itself.

    Raises:
        ModelFileError: if a part is missing.
    """
    match = PART.fullmatch(path.name)
    if match is None or int(match[3]) < 2:
        return [path]
    stem, number, count, suffix = match[1], match[2], int(match[3]), match[4]
    parts = [path.with_name(f"{stem}-{part:0{len(number)}}-of-{match[3]}{suffix}") for part in range(1, count + 1)]
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise ModelFileError(
            f"{path}: is part {int(number)} of {count}, and {missing[0]} is not beside it; download all parts into one "
            "folder"
        )
    return parts


def parts_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex; of a network in several files, that of the SHA-256s of all of them.

    Raises:
        ModelFileError: if a part is missing.
    """
    digests = [file_digest(part) for part in find_parts(path)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
