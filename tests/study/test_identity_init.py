"""The solution that exists: measured in a real study, and gathered seed by seed."""

import dataclasses
import json
import shutil

import pytest

from helpers.synthetic_runs import made
from resnetlab.study.identity_init import identity_init_results
from resnetlab.study.report import write_report
from resnetlab.study.results import read_runs

from conftest import resnetlab


def test_a_deepened_network_starts_where_the_shallow_one_ended(tiny_study):
    (one,) = identity_init_results(read_runs(tiny_study))
    assert (one.arm, one.shallow, one.deep, one.seeds) == ("plain", 8, 14, (0, 1))
    assert one.constructed.mean == pytest.approx(one.trained.mean, abs=0.1)  # one of 1,257 images may tip over
    assert 0 < one.max_logit_difference < 1e-4
    for run in read_runs(tiny_study):
        if run.is_from_file:
            assert run.start["start"]["depth"] == 8
            assert run.result["train_error_pct"] != run.start["start"]["train_error_pct"]  # it was trained further
    page = (tiny_study / "report.html").read_text()
    assert "The solution that exists" in page
    assert one.sentence.split(";")[0] in page.replace("&#39;", "'")


def four(seed, trained, constructed, further, scratch):
    start = {"file": "x", "depth": 20, "max_logit_difference": 1e-6 * (seed + 1), "train_error_pct": constructed}
    deepened = made("plain", 56, seed, further)
    deepened = dataclasses.replace(
        deepened, config=dataclasses.replace(deepened.config, weights="x"), start=deepened.start | {"start": start}
    )
    return [made("plain", 20, seed, trained), deepened, made("plain", 56, seed, scratch)]


def test_only_seeds_with_all_four_count():
    runs = [*four(0, 1.0, 1.0, 0.5, 70.0), *four(1, 3.0, 3.0, 1.5, 80.0), *four(2, 9.0, 9.0, 9.0, 9.0)[:2]]
    (one,) = identity_init_results(runs)
    assert (one.trained.mean, one.constructed.mean, one.further.mean, one.scratch.mean) == (2.0, 2.0, 1.0, 75.0)
    assert (one.seeds, one.max_logit_difference) == ((0, 1), 2e-6)
    assert one.sentence.endswith("the optimiser does not find what is there.")
    (same,) = identity_init_results(four(0, 2.0, 2.0, 1.0, 1.5))
    assert same.sentence.endswith("not clearly worse, here.")
    assert identity_init_results([made("plain", 20, 0, 1.0), made("plain", 56, 0, 1.0)]) == []


@pytest.mark.slow
def test_a_shallow_run_that_is_missing_is_told(tiny_study, tmp_path):
    """Without the network it starts from, a deepened run fails with the reason; with it, it is made again."""
    copy = shutil.copytree(tiny_study, tmp_path / "study")
    shutil.rmtree(copy / "runs" / "digits-plain-14-from-8-seed0")
    (copy / "runs" / "digits-plain-8-seed0" / "model.safetensors").unlink()
    words = ("study", "--depths", "8", "14", "--seeds", "2", "--epochs", "1", "--out", copy, "--json")
    done = resnetlab(*words)
    assert done.returncode == 1
    assert "digits-plain-8-seed0/model.safetensors to start from" in " ".join(done.stderr.split())
    assert len(json.loads(done.stdout)["runs"]) == 9
    shutil.rmtree(copy / "runs" / "digits-plain-8-seed0")
    assert resnetlab(*words).returncode == 0
    assert [run["status"] for run in write_report(copy)["runs"]] == ["done"] * 10
