"""Verdicts on synthetic studies of every cause: none says what is not true."""

import importlib
import sys

import pytest

from resnetlab.study.rules import RULES

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
scenarios = importlib.import_module("study_scenarios")
confusion = importlib.import_module("verdict_confusion")

STUDIES = list(scenarios.draw_studies(1, seed=1))


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.scenario)
def test_no_verdict_is_false(study):
    found = confusion.kinds(study)
    assert not confusion.is_false(study, found), found


def test_a_false_verdict_would_be_noticed():
    (study,) = (study for study in STUDIES if study.scenario == "one depth")
    assert confusion.is_false(study, {"healthy"})
    assert confusion.is_false(study, {"degradation", confusion.NOT_ENOUGH})
    assert not confusion.is_false(study, {confusion.NOT_ENOUGH})


def test_every_verdict_is_the_truth_of_a_scenario():
    assert {scenario.truth for scenario in scenarios.SCENARIOS.values()} == {rule.kind for rule in RULES} - {
        confusion.NOT_ENOUGH
    } | {confusion.UNDECIDED}


def test_most_truths_are_found():
    found = [study.truth in confusion.kinds(study) for study in STUDIES if study.truth != confusion.UNDECIDED]
    assert sum(found) >= 0.8 * len(found)
