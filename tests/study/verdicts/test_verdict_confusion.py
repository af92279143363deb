"""Verdicts on synthetic studies of every cause: none says what is not true."""

import sys

import pytest

from resnetlab.study.verdicts.rules import RULES

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from study_scenarios import SCENARIOS, draw_studies
from synthetic_studies import UNDECIDED
from verdict_confusion import NOT_ENOUGH, is_false, kinds

STUDIES = list(draw_studies(1, seed=1))


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.scenario)
def test_no_verdict_is_false(study):
    found = kinds(study)
    assert not is_false(study, found), found


def test_a_false_verdict_would_be_noticed():
    (study,) = (study for study in STUDIES if study.scenario == "one depth")
    assert is_false(study, {"healthy"})
    assert is_false(study, {"degradation", NOT_ENOUGH})
    assert not is_false(study, {NOT_ENOUGH})


def test_every_verdict_is_the_truth_of_a_scenario():
    assert {scenario.truth for scenario in SCENARIOS.values()} == {rule.kind for rule in RULES} - {NOT_ENOUGH} | {
        UNDECIDED
    }


def test_most_truths_are_found():
    found = [study.truth in kinds(study) for study in STUDIES if study.truth != UNDECIDED]
    assert sum(found) >= 0.8 * len(found)
