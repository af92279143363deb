"""The help of a command: its usage line, and descriptions that are wrapped once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from resnetlab.cli.help_text import COLOUR, fold_usage
from resnetlab.cli.main import parse

USAGE = "usage: resnetlab models [-h] [NAME] [--batch-size INT] [--pixels INT]"


def test_an_option_stays_with_its_value():
    assert fold_usage(USAGE, 45).split("\n") == [
        "usage: resnetlab models [-h] [NAME]",
        "       [--batch-size INT] [--pixels INT]",
    ]


@pytest.mark.parametrize("width", [30, 45, 80])
def test_colours_take_no_width(width):
    coloured = USAGE.replace("[", "\x1b[0m[\x1b[1m").replace("usage:", "\x1b[1musage:\x1b[0m")
    folded = fold_usage(coloured, width)
    assert COLOUR.sub("", folded) == fold_usage(USAGE, width)
    assert "".join(folded.split()) == "".join(coloured.split())


@dataclass(frozen=True)
class Shared:
    """Options of several commands."""

    folder: Path | None = None
    """The folder, in which all of the files stand whose names are given by other options of this group, and whose
    description goes on here."""


@dataclass(frozen=True)
class Group(Shared):
    """Options that belong together."""

    sizes: tuple[int, ...] | None = None
    """Sizes in pixels."""


@dataclass(frozen=True)
class Options:
    """Do something."""

    file: Annotated[Path, tyro.conf.Positional]
    """The file that is read."""
    seed: int = 0
    """A number whose description has more words than a line of this file can hold in its hundred and twenty
    letters, so that it goes on
    (as here) in others.

    A second paragraph."""
    names: tuple[str, ...] = ()
    """Any names."""
    reading: Annotated[Group, tyro.conf.OmitArgPrefixes] = Group()
    timeout_s: Annotated[float, tyro.conf.arg(name="timeout")] = 10.0
    """Seconds."""


def test_descriptions_are_wrapped_once(capsys, monkeypatch):
    """tyro keeps the line breaks of the source."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse(Options, "something", ["--help"])
    text = capsys.readouterr().out
    rows = [" ".join(line.strip("│ ").split()) for line in text.splitlines()]
    start = next(index for index, row in enumerate(rows) if row.startswith("--seed INT"))
    assert " ".join(rows[start : start + 5]).startswith(
        "--seed INT A number whose description has more words than a line of this file can hold in its hundred and "
        "twenty letters, so that it goes on (as here) in others."
    )
    described = [row for row in rows[start : start + 8] if row]
    assert [len(row) > 40 for row in described[1:3]] == [True, True]
    assert any(row.startswith("A second paragraph.") and row.endswith("(default: 0)") for row in described)
    assert "The file that is read. (required)" in text
    assert "--names STR [STR ...] Any names." in " ".join(rows)
    title = next(index for index, row in enumerate(rows) if "reading options" in row)
    in_group = " ".join(rows[title:])
    assert "Options that belong together." in in_group
    assert "--sizes INT [INT ...] Sizes in pixels." in in_group
    assert "whose names are given by other options of this group, and whose description goes on here." in in_group
    assert "(default: None)" not in text
    assert "--timeout FLOAT" in text
    assert parse(Options, "something", ["x", "--timeout", "3"]) == Options(Path("x"), timeout_s=3.0)
    assert parse(Options, "something", ["x", "--sizes", "3,4"]).reading == Group(sizes=(3, 4))
