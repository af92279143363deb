"""The usage line of help, folded to the width of the terminal."""

import pytest

from resnetlab.cli.help_text import COLOUR, fold_usage

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
