"""Numbers with their nouns."""

import pytest

from resnetlab.system.count_text import count_text


@pytest.mark.parametrize(
    ("count", "noun", "expected"),
    [(1, "class", "1 class"), (2, "class", "2 classes"), (0, "step", "0 steps"), (1200, "pass", "1,200 passes")],
)
def test_a_noun_follows_its_number(count, noun, expected):
    assert count_text(count, noun) == expected
