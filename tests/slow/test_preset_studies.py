"""The four presets, each from its one command, end in their own verdict and no other; with shuffled labels in none."""

import dataclasses
import json
import random
import time

import pytest

from resnetlab.study.results import read_runs
from resnetlab.study.rules import FAILING
from resnetlab.study.verdict import verdicts

from conftest import resnetlab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FAILS = {rule.kind for rule in FAILING}
LIMIT_S = 180


@pytest.fixture(scope="module", params=["degradation", "vanishing", "exploding", "overfitting"])
def study(request, tmp_path_factory):
    """A preset's name, its folder, what it printed as JSON, and its wall time in seconds."""
    out = tmp_path_factory.mktemp(request.param)
    start = time.monotonic()
    done = resnetlab("study", "--preset", request.param, "--out", out, "--json", timeout=800)
    assert done.returncode == 0, done.stderr
    return request.param, out, json.loads(done.stdout), time.monotonic() - start


def test_its_own_verdict_and_no_other(study):
    name, _, results, time_s = study
    assert {finding["kind"] for finding in results["findings"]} & FAILS == {name}
    assert time_s < LIMIT_S


def test_shuffled_labels_give_none(study):
    """Records under each other's labels.

    By chance a shuffle deals the labels that matter out as they were: 1 of 84 where three failing runs of nine count.
    """
    _, out, _, _ = study
    runs = [run for run in read_runs(out) if not run.is_from_file]
    rng, told = random.Random(0), 0
    for _ in range(200):
        labels = rng.sample([run.config for run in runs], len(runs))
        shuffled = [dataclasses.replace(run, config=config) for run, config in zip(runs, labels, strict=True)]
        told += bool({finding.kind for finding in verdicts(shuffled)} & FAILS)
    assert told <= 200 * 3 / 84


def test_every_section_of_the_page(study):
    name, out, _, _ = study
    page = (out / "report.html").read_text()
    for section in ("Final errors", "What gradients and layers do", "How soon", "The rules of the verdict"):
        assert section in page
    assert ("The solution that exists" in page) == (name == "degradation")
