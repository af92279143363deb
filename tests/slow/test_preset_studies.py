"""Each of the four presets gives its own failing verdict and no other; shuffled labels give none."""

import dataclasses
import random

import pytest

from resnetlab.study.results import read_runs
from resnetlab.study.verdicts.rules import FAILING
from resnetlab.study.verdicts.verdict import verdicts

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1800)]

FAILS = {rule.kind for rule in FAILING} - {"unstable"}
"""Without `unstable`, which a run that ends in NaN gives under any label."""


@pytest.fixture(scope="module", params=["degradation", "vanishing", "exploding", "overfitting"])
def study(request, preset_study):
    """Return a preset's name, its folder and its JSON output."""
    return request.param, *preset_study(request.param)


def test_own_verdict_and_no_other(study):
    name, _, results = study
    assert {finding["kind"] for finding in results["findings"]} & FAILS == {name}


def test_shuffled_labels_give_no_failing_verdict(study):
    """Shuffle the labels of the records.

    Some shuffles leave the labels that matter unchanged: 1 of 84 if three failing runs of nine count.
    """
    _, out, _ = study
    runs = [run for run in read_runs(out) if not run.is_from_file]
    rng, num_failing = random.Random(0), 0
    for _ in range(60):
        labels = rng.sample([run.config for run in runs], len(runs))
        shuffled = [dataclasses.replace(run, config=config) for run, config in zip(runs, labels, strict=True)]
        num_failing += bool({finding.kind for finding in verdicts(shuffled)} & FAILS)
    assert num_failing <= 60 * 3 / 84


def test_sections_of_the_page(study):
    name, out, _ = study
    page = (out / "report.html").read_text()
    for section in ("Final errors", "Gradients and layer responses", "Convergence speed", "Rules of the verdicts"):
        assert section in page
    assert ("Identity initialisation" in page) == (name == "degradation")
