"""Names of splits: one table for folders and parquet files, and the option `--split-folders` that overrides it."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from resnetlab.config import ConfigError
from resnetlab.data.left_out import shorten

SPLIT_NAMES = ("train", "val", "test")
"""Splits in the order of every listing."""
WORDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "trn", "trainval", "trainvalid"),
    "val": (
        *("val", "valid", "validation", "validate", "validating"),
        *("dev", "devel", "development", "eval", "evaluation", "evaluate", "holdout", "heldout"),
    ),
    "test": ("test", "testing", "tst"),
}
"""Words that name each split, in lower case."""
UNSURE = ("eval", "evaluation", "evaluate", "holdout", "heldout")
"""Words for the validation split that some data sets use for the test split."""
AFFIX = (
    r"(?:datasets?|data|sets?|splits?|images?|imgs?|pics?|photos?|frames?|folders?|dir|files?|samples?|(?:19|20)\d\d)"
)
"""A word or year that may stand before or after the name of a split: `train2017`, `training_set`, `images_val`."""
SPLIT_OF_WORD = {word: split for split, words in WORDS.items() for word in words}
NAME = re.compile(rf"\d{{0,2}}{AFFIX}*({'|'.join(sorted(SPLIT_OF_WORD, key=len, reverse=True))}){AFFIX}*")
SEPARATORS = re.compile(r"[-_.\s()\[\]+]+")
SHARD = re.compile(r"(?<!\d)(\d+)[-_ ]?of[-_ ]?(\d+)(?!\d)", re.IGNORECASE)
"""Number and count of a file that is one of several: `00001-of-00005`."""
HASH = re.compile(r"[0-9a-f]{16,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
"""The hash or UUID that Hugging Face and Spark append to file names."""
NO_WORDS = {
    *("snappy", "gz", "gzip", "zst", "zstd", "lz4", "br", "brotli", "uncompressed", "parquet"),
    *("part", "shard", "chunk", "c", "v"),
}
"""Parts of parquet file names that say how a file is compressed or numbered: `part-00000-c000.snappy.parquet`."""


def split_of(name: str) -> str | None:
    """Return the split that a folder's name says: `train`, `val`, `test`, or `None`.

    Case, separators, words such as `set` or `images`, years and a leading number do not matter: `Training`, `test_set`,
    `val2017`, `01-train`.
    """
    match = NAME.fullmatch(plain_name(name))
    return SPLIT_OF_WORD[match[1]] if match else None


def plain_name(name: str) -> str:
    """Return a name without case and separators, in Unicode form NFC."""
    return SEPARATORS.sub("", unicodedata.normalize("NFC", name).casefold())


def is_unsure(name: str) -> bool:
    """Return whether a name that `split_of` knows may also mean the test split: `eval`, `holdout`."""
    match = NAME.fullmatch(plain_name(name))
    return match is not None and match[1] in UNSURE


def first_word_split(name: str) -> str | None:
    """Return the split that a folder's name or its first word says, whatever follows: `test` for `test1`."""
    words = _words(name)
    return split_of(name) or (split_of(words[0]) if words else None)


def splits_of_files(names: Sequence[str]) -> dict[str, str | None]:
    """Return the split that each parquet file's name says, or `None`.

    Numbers, hashes and the compression are ignored. A word that all names share, as in `mnist-train.parquet` and
    `mnist-test.parquet`, is ignored too; with another word a name does not say a split: `training_notes.parquet`.
    """
    words = {name: _words(name) for name in names}
    series = {tuple(found) for found in words.values()}
    common = set[str].intersection(*map(set, series)) if len(series) > 1 else set[str]()
    return {name: split_of(" ".join(_without(words[name], common))) for name in names}


def file_stem(name: str) -> str:
    """Return a parquet file's name without numbers, hash and compression: equal for the files of one series."""
    return " ".join(_words(name))


def has_split_word(name: str) -> bool:
    """Return whether one word of a file's name says a split, whatever the others say."""
    return any(split_of(word) is not None for word in _words(name))


def shard_number(name: str) -> tuple[int, int] | None:
    """Return the number and the count of a file that is one of several, such as `train-00001-of-00005-HASH.parquet`."""
    match = SHARD.search(name)
    return (int(match[1]), int(match[2])) if match else None


def parse_split_folders(text: str | None) -> dict[str, str]:
    """Return the folder or file of each split that `--split-folders train=Training,test=Testing` names.

    `all=FOLDER` names a folder of classes without splits; `all=.` says that the folders of the root are classes.

    Raises:
        ConfigError: If the text is not of that form, a split is unknown or named twice, or `train` is missing.
    """
    chosen: dict[str, str] = {}
    for part in (text or "").split(",") if text is not None else ():
        key, equals, value = (word.strip() for word in part.partition("="))
        split = "all" if key.casefold() == "all" else split_of(key)
        if not equals or not value or split is None:
            raise _invalid(f"has {part.strip()!r}; write SPLIT=FOLDER with a split train, val, test or all")
        if value.startswith(("/", "~")) or ".." in value.split("/"):
            raise _invalid(f"has {part.strip()!r}; name folders relative to the data, such as train=Training")
        if split in chosen:
            raise _invalid(f"names {split} twice, as {chosen[split]} and {value}; name each split once")
        chosen[split] = value.rstrip("/") or "."
    if chosen and ("train" in chosen) == ("all" in chosen):
        raise _invalid("must name either train or all; write train=FOLDER,test=FOLDER, or all=FOLDER")
    if "all" in chosen and len(chosen) > 1:
        raise _invalid("names all beside other splits; write all=FOLDER alone")
    if len(set(chosen.values())) < len(chosen):
        raise _invalid("names one folder for two splits; give each split a folder of its own")
    return {split: chosen[split] for split in (*SPLIT_NAMES, "all") if split in chosen}


def refuse_shared(root: Path, splits: Mapping[str, Iterable[Path]]) -> None:
    """Raise if a folder or file belongs to two splits, perhaps in two spellings or through a link.

    Raises:
        ConfigError: If that is the case.
    """
    first: dict[Path, tuple[str, Path]] = {}
    for split, paths in splits.items():
        for path in paths:
            other_split, other = first.setdefault(path.resolve(), (split, path))
            if other_split != split:
                names = [shorten(found.relative_to(root).as_posix()) for found in (other, path)]
                raise ConfigError(
                    f"{root}: {names[0]} of {other_split} and {names[1]} of {split} are one "
                    f"{'folder' if path.is_dir() else 'file'}; give each split its own"
                )


def suggest_option(names: Iterable[str]) -> str:
    """Return `--split-folders train=A,val=B,test=C` for the names of folders or files that exist, as an example.

    Of several names for one split, one that may mean another split moves there: `dev` and `eval`.
    """
    names = list(dict.fromkeys(names))
    chosen: dict[str, str] = {}
    rest = []
    for name in sorted(names, key=lambda name: is_unsure(file_stem(name))):
        split = split_of(name) or next(filter(None, map(split_of, _words(name))), None)
        if split is not None and split in chosen and is_unsure(file_stem(name)) and "test" not in chosen:
            split = "test"
        if split is None:
            rest.append(name)
        elif split not in chosen:
            chosen[split] = name
    missing = [split for split in ("train", "test", "val") if split not in chosen]
    chosen = {"train": "FOLDER", **chosen, **dict(zip(missing, rest, strict=False))}
    return "--split-folders " + ",".join(f"{split}={chosen[split]}" for split in SPLIT_NAMES if split in chosen)


def _words(name: str) -> list[str]:
    """Return the words of a file's name in lower case, without numbers, hash and compression."""
    name = HASH.sub(" ", SHARD.sub(" ", unicodedata.normalize("NFC", name).casefold()))
    parts = chain.from_iterable(re.findall(r"[^\W\d_]+(?:(?:19|20)\d\d)?", part) for part in SEPARATORS.split(name))
    return [part for part in parts if part not in NO_WORDS]


def _without(words: Sequence[str], common: set[str]) -> list[str]:
    return [word for word in words if word not in common or split_of(word) is not None]


def _invalid(problem: str) -> ConfigError:
    return ConfigError(f"--split-folders {problem}")
