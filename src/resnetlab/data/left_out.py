"""Files and folders that a listing leaves out: counts by reason, with examples, as short lines."""

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_EXAMPLES = 3
"""Number of files that a line names."""
MAX_LINE = 150
"""Characters of a line, whatever the names."""
MAX_NAME = 60
"""Characters of a name in a line."""


@dataclass(frozen=True)
class Reason:
    """A reason to leave a file or folder out."""

    one: str
    """The noun for one file, such as `hidden file`."""
    many: str
    """The noun for several; it identifies the reason in JSON output."""
    is_warning: bool = False
    """Whether a user may have meant the files to be read."""
    hint: str = ""
    """Remedy, after the examples."""


SYSTEM = Reason("system file or folder", "system files and folders")
HIDDEN = Reason("hidden file or folder", "hidden files and folders")
OUTPUT = Reason("output of resnetlab", "outputs of resnetlab")
OUTSIDE = Reason("image outside any class folder", "images outside any class folder", is_warning=True)
FOLDER = Reason("folder that is not read", "folders that are not read", is_warning=True)
UNNAMED = Reason("image that no row names", "images that no row names", is_warning=True)
PARQUET = Reason(
    "file not named after a split", "files not named after a split", is_warning=True, hint="read with --split-folders"
)


@dataclass(frozen=True)
class LeftOutGroup:
    """The files and folders that were left out for one reason; what is inside such a folder is not counted."""

    reason: str
    """The reason in words, such as `files that are not images`."""
    count: int
    examples: tuple[str, ...]
    """The first names, at most `MAX_EXAMPLES`; folders end in a slash."""
    line: str
    """All of this in one line of at most `MAX_LINE` characters."""
    is_warning: bool


@dataclass
class LeftOutCounter:
    """Counts files and folders by the reason to leave them out."""

    counts: dict[Reason, int] = field(default_factory=dict)
    examples: dict[Reason, list[str]] = field(default_factory=dict)

    def add(self, reason: Reason, name: str) -> None:
        """Count a file or folder."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(name)

    def summary(self) -> tuple[LeftOutGroup, ...]:
        """Return the counts, those that are warnings first."""
        reasons = sorted(self.counts, key=lambda reason: (not reason.is_warning, reason.many))
        return tuple(
            LeftOutGroup(
                reason.many,
                self.counts[reason],
                tuple(self.examples[reason]),
                _line(reason, self.counts[reason], self.examples[reason]),
                reason.is_warning,
            )
            for reason in reasons
        )


def shorten(name: str, width: int = MAX_NAME) -> str:
    """Return a name of at most `width` characters on one line, with an ellipsis in place of its middle."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)
    if len(printable) <= width:
        return printable
    head = (width - 1) // 2
    return f"{printable[:head]}…{printable[len(printable) - (width - 1 - head) :]}"


def join_names(names: Sequence[str], width: int, total: int | None = None) -> str:
    """Return as many names as `width` characters hold, separated by commas; `, …` says that there are more.

    `total` is the number of all names if `names` has only the first.
    """
    names, total = [shorten(name) for name in names], len(names) if total is None else total
    text = ""
    for number, name in enumerate(names):
        longer = f"{text}, {name}" if text else shorten(name, max(8, width - 3))
        rest = 0 if number + 1 == total else 3
        if text and len(longer) + rest > width:
            return f"{text}, …"
        text = longer
    return text if total == len(names) else f"{text}, …"


def _line(reason: Reason, count: int, examples: Sequence[str]) -> str:
    start = f"ignored {count:,} {reason.one if count == 1 else reason.many}: "
    end = f"; {reason.hint}" if reason.hint else ""
    return start + join_names(examples, MAX_LINE - len(start) - len(end), count) + end
