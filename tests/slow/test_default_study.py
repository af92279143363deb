"""The default study (`make study`): the results that the README states."""

import csv
import io
import re
import statistics

import pytest

from conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def results(preset_study):
    _, printed = preset_study("degradation")
    return printed


@pytest.fixture(scope="module")
def rows(results):
    return results["runs"]


def errors(rows, arm, depth, deepened_from=None):
    network = arm, depth, deepened_from
    return {
        row["seed"]: row["train_error_pct"]
        for row in rows
        if (row["arm"], row["depth"], row["deepened_from"]) == network
    }


def test_eighteen_runs_and_three_deepened_runs(rows):
    assert [row["status"] for row in rows] == ["done"] * 21
    assert {row["seed"] for row in rows} == {0, 1, 2}
    assert set(errors(rows, "plain", 56, 20)) == {0, 1, 2}


def test_training_from_scratch_is_worse_than_identity_init(results):
    (entry,) = results["constructions"]
    assert entry["constructed"]["mean"] == pytest.approx(entry["trained"]["mean"], abs=0.1)
    assert entry["max_logit_difference"] < 1e-4
    assert entry["scratch"]["mean"] > entry["further"]["mean"] + 10


def test_plain_56_trains_worse_than_plain_20(rows):
    shallow, deep = errors(rows, "plain", 20), errors(rows, "plain", 56)
    assert all(deep[seed] > shallow[seed] for seed in shallow)
    assert statistics.fmean(deep.values()) - statistics.fmean(shallow.values()) > 10


def test_residual_56_does_not(rows):
    shallow, deep, plain = errors(rows, "residual", 20), errors(rows, "residual", 56), errors(rows, "plain", 56)
    assert abs(statistics.fmean(deep.values()) - statistics.fmean(shallow.values())) < 2
    assert statistics.fmean(plain.values()) - statistics.fmean(deep.values()) > 10


def test_committed_results_are_those_of_this_study(rows):
    """docs/results holds the numbers of the README; the same processor and PyTorch version give the same numbers."""
    with (ROOT / "docs" / "results" / "default-study.csv").open() as file:
        committed = {row["directory"]: row for row in csv.DictReader(file)}
    assert set(committed) == {row["directory"] for row in rows}
    for row in rows:
        # Kernels round differently, and networks that do not learn amplify it.
        close = 30 if row["depth"] == 56 and row["arm"].startswith("plain") else 3
        assert abs(row["train_error_pct"] - float(committed[row["directory"]]["train_error_pct"])) < close


def test_readme_quotes_the_committed_results():
    text = (ROOT / "docs" / "results" / "default-study.csv").read_text()
    table = list(csv.DictReader(io.StringIO(text)))
    readme = (ROOT / "README.md").read_text()
    for arm in ("plain", "residual"):
        for depth in ("20", "56"):
            found = re.search(rf"^\| {arm}-{depth} \|(.*)\|$", readme, re.MULTILINE)
            assert found is not None
            for split in ("train", "test"):
                group = [r for r in table if (r["arm"], r["depth"], r["deepened_from"]) == (arm, depth, "")]
                values = [float(r[f"{split}_error_pct"]) for r in group]
                assert f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}" in found[1]
