"""The chance level, and errors in which each class counts once."""

import io

import numpy as np
import pytest
from rich.console import Console

from resnetlab.cli.evaluate_output import print_evaluation
from resnetlab.evaluation.chance import (
    NO_BETTER_THAN_CHANCE,
    are_unequal,
    chance_entry,
    chance_level,
    imbalance,
    macro_error_pct,
)
from resnetlab.evaluation.error_rate import error_rate
from resnetlab.evaluation.figures import FIGURES, SvgFigure
from resnetlab.evaluation.metrics import compute_metrics
from resnetlab.evaluation.predictions import Predictions
from resnetlab.evaluation.summary import EvaluationSummary

SUMMARY = EvaluationSummary(
    title="resnet8 on photos",
    models=("resnet8",),
    files=("a.safetensors",),
    data="photos",
    split="test",
    protocol="one crop",
    command="",
)


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
    assert level.describe(["cat", "dog", "owl"]) == "always predicting 'cat', the most frequent class"
    equal = chance_level([0, 25, 25, 25, 25])
    assert equal is not None
    assert (equal.error_pct, equal.describe("abcde")) == (75, "always predicting any one class")


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


def unequal_evaluation(num_correct):
    """90 images of one class, 10 of another with a name that is markup; the first `num_correct` answers are right."""
    rows = np.arange(100)
    labels = (rows % 10 == 9).astype(np.int64)
    first = np.where(rows < num_correct, labels, 1 - labels)
    predictions = Predictions(
        positions=rows,
        labels=labels,
        top=np.stack([first, 1 - first], 1),
        confidence=np.full(100, 0.6),
        loss=np.full(100, 0.5),
    )
    return compute_metrics(predictions, ("<b>cat\x1b[2J</b>", "dog"))


def output_of(evaluation):
    console = Console(file=io.StringIO(), width=80)
    print_evaluation(evaluation, SUMMARY, console)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_the_terminal_has_the_level_beside_the_error():
    text = output_of(unequal_evaluation(100))
    line = "chance 10.00 % by always predicting '<b>cat\\x1b[2J</b>', the most frequent class"
    assert line in " ".join(text.split())
    assert "macro error    0.00 %" in text
    assert "no better than chance" not in text
    text = output_of(unequal_evaluation(89))
    assert NO_BETTER_THAN_CHANCE in " ".join(text.split())
    assert "top-1 error   11.00 %" in text
    assert "macro error   15.00 %" in text  # 9 of 90 wrong, and 2 of 10
    assert max(map(len, text.splitlines())) <= 80


def test_the_page_and_the_json_have_it_too(monkeypatch):
    from resnetlab.evaluation import html_report

    figure = SvgFigure(b"<svg/>", b"<svg/>")
    monkeypatch.setattr(html_report, "draw_figures", lambda _: dict.fromkeys(FIGURES, figure))
    evaluation = unequal_evaluation(89)
    page = html_report.render_page(evaluation, SUMMARY)
    assert NO_BETTER_THAN_CHANCE in page
    assert "<b>10.00 %</b>chance level" in page
    assert "macro-averaged error" in page
    assert "<b>cat" not in page
    values = evaluation.as_json()
    assert values["chance"] == {
        "error_pct": pytest.approx(10),
        "class": "<b>cat\x1b[2J</b>",
        "better_than_chance": False,
    }
    assert values["macro_error_pct"] == evaluation.macro_error_pct
    better = html_report.render_page(unequal_evaluation(100), SUMMARY)
    assert NO_BETTER_THAN_CHANCE not in better
