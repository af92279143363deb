"""The chance level, and errors in which each class counts once."""

import numpy as np
import pytest

from resnetlab.evaluation.chance import are_unequal, chance_entry, chance_level, imbalance, macro_error_pct
from resnetlab.evaluation.error_rate import error_rate


def test_no_constant_answer_has_a_lower_error():
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = rng.choice(5, size=200, p=rng.dirichlet(np.ones(5)))
        level = chance_level(np.bincount(labels, minlength=7).tolist())
        errors = [100 * float((labels != answer).mean()) for answer in range(7)]
        assert level is not None
        assert level.error_pct == pytest.approx(min(errors))
        assert level.label == int(np.argmin(errors))


def test_the_answer_is_named_unless_every_one_is_as_good():
    level = chance_level([50, 30, 20])
    assert level is not None
    assert level.describe(["cat", "dog", "owl"]) == (
        "chance level 50.00 %: always answering 'cat', the most frequent class"
    )
    equal = chance_level([0, 25, 25, 25, 25])
    assert equal is not None
    assert equal.describe("abcde") == "chance level 75.00 %: always answering any one class"


@pytest.mark.parametrize("counts", [[], [0, 0], [12], [0, 7, 0]])
def test_one_class_has_no_chance_level(counts):
    assert chance_level(counts) is None
    assert chance_entry(counts, "abc", (0, 1)) is None


def test_an_error_is_better_only_if_its_interval_is():
    counts = [60, 40]
    for num_wrong, better in ((40, False), (34, False), (20, True), (80, False)):
        interval = error_rate(num_wrong, 100).interval_95_pct
        assert chance_entry(counts, ("a", "b"), interval) == {
            "error_pct": 40.0,
            "class": "a",
            "better_than_chance": better,
        }
        assert better == (interval[1] < 40)


def test_each_class_counts_once():
    # 90 of one class, all right; 10 of the other, half of them wrong
    assert macro_error_pct([0, 5, 0], [90, 10, 0]) == pytest.approx(25)
    assert macro_error_pct([], []) is None


def test_unequal_classes():
    assert imbalance([30, 10, 0]) == 3
    assert are_unequal([30, 20])
    assert not are_unequal([4, 3, 4])  # a stratified split of equal classes
    assert not are_unequal([])
