"""Identity initialisation: measured in a real study, and aggregated over seeds."""

import dataclasses
import json
import shutil

import pytest

from helpers.synthetic_runs import synthetic_run
from resnetlab.study.identity_init import identity_init_results
from resnetlab.study.reports.report import write_report
from resnetlab.study.results import read_runs

from conftest import TWO_ARMS


def test_deepened_network_starts_at_the_error_of_the_shallow_one(tiny_study):
    (result,) = identity_init_results(read_runs(tiny_study))
    assert (result.arm, result.shallow, result.deep, result.seeds) == ("plain", 8, 14, (0, 1))
    assert result.deepened_error.mean == pytest.approx(result.shallow_error.mean, abs=0.1)  # 1 of 1,257 may differ
    assert 0 < result.max_logit_difference < 1e-4
    for run in read_runs(tiny_study):
        if run.is_from_file:
            assert run.start["start"]["depth"] == 8
            assert run.result["train_error_pct"] != run.start["start"]["train_error_pct"]  # it was trained further
    page = (tiny_study / "report.html").read_text()
    assert "Identity initialisation" in page
    assert result.sentence.split(";")[0] in page.replace("&#39;", "'")


NO_CLAIM = "; that is too little to say whether the optimiser finds that solution."


def four_errors(seed, *, shallow, deepened, further, scratch):
    start = {"file": "x", "depth": 20, "max_logit_difference": 1e-6 * (seed + 1), "train_error_pct": deepened}
    run = synthetic_run("plain", 56, seed, further)
    from_file = dataclasses.replace(
        run, config=dataclasses.replace(run.config, weights="x"), start=run.start | {"start": start}
    )
    return [synthetic_run("plain", 20, seed, shallow), from_file, synthetic_run("plain", 56, seed, scratch)]


def test_only_seeds_with_all_four_errors_count():
    runs = [
        *four_errors(0, shallow=1.0, deepened=1.0, further=0.5, scratch=70.0),
        *four_errors(1, shallow=3.0, deepened=3.0, further=1.5, scratch=80.0),
        *four_errors(2, shallow=9.0, deepened=9.0, further=9.0, scratch=9.0)[:2],
    ]
    (result,) = identity_init_results(runs)
    assert (result.shallow_error.mean, result.deepened_error.mean) == (2.0, 2.0)
    assert (result.further_error.mean, result.scratch_error.mean) == (1.0, 75.0)
    assert (result.seeds, result.max_logit_difference) == ((0, 1), 2e-6)
    assert "95 % interval 22.2 to 123.8 points" in result.sentence  # by hand: mean 73, 12.706 x 5.657 / sqrt 2
    assert result.sentence.endswith(NO_CLAIM)  # the 99 % interval of two seeds contains zero
    third = four_errors(3, shallow=2.0, deepened=2.0, further=1.0, scratch=76.0)
    assert identity_init_results(runs + third)[0].sentence.endswith("the optimiser does not find that solution.")
    (one,) = identity_init_results(four_errors(0, shallow=1.0, deepened=1.0, further=1.0, scratch=80.0))
    assert one.sentence.endswith(f"(+79.0 points, one seed){NO_CLAIM}")
    (same,) = identity_init_results(four_errors(0, shallow=2.0, deepened=2.0, further=1.0, scratch=1.5))
    assert same.sentence.endswith(NO_CLAIM)
    good = [
        run
        for seed in range(3)
        for run in four_errors(seed, shallow=2.0, deepened=2.0, further=1.0, scratch=1.5 + 0.1 * seed)
    ]
    assert identity_init_results(good)[0].sentence.endswith("points), which rules out 2 points or more.")
    assert identity_init_results([synthetic_run("plain", 20, 0, 1.0), synthetic_run("plain", 56, 0, 1.0)]) == []


def test_a_run_that_ended_in_nan_is_the_worst_result():
    """Without these seeds the difference would come from the runs that went well."""
    runs = [
        run
        for seed in range(3)
        for run in four_errors(seed, shallow=2.0, deepened=2.0, further=1.0, scratch=1.5 + seed / 10)
    ]
    nan = synthetic_run("plain", 56, 1, None, status="diverged")
    (result,) = identity_init_results([nan if (r.depth, r.seed, r.is_from_file) == (56, 1, False) else r for r in runs])
    assert result.seeds == (0, 1, 2)
    assert result.scratch_error.mean == pytest.approx((1.5 + 100 + 1.7) / 3)
    assert result.sentence.endswith(f"(+32.4 points, 1 run ended in NaN and counts as 100 %){NO_CLAIM}")
    further = [replace_status(run) if run.is_from_file and run.seed == 2 else run for run in runs]
    (result,) = identity_init_results(further)
    assert result.further_error.mean == pytest.approx((1 + 1 + 100) / 3)
    assert result.excess.num_diverged == 0


def replace_status(run):
    return dataclasses.replace(run, status="diverged", result={"status": "diverged"})


@pytest.mark.slow
def test_missing_shallow_run_is_reported(tiny_study, tmp_path, without_figures):
    """Without its shallow network a deepened run fails with the reason; with it, the run is repeated."""
    copy = shutil.copytree(tiny_study, tmp_path / "study")
    shutil.rmtree(copy / "runs" / "digits-plain-14-from-8-seed0")
    (copy / "runs" / "digits-plain-8-seed0" / "model.safetensors").unlink()
    command = ("study", *TWO_ARMS, "--depths", "8", "14", "--seeds", "2", "--epochs", "1", "--out", copy, "--json")
    status, out, stderr = without_figures(*command)
    assert status == 1
    assert "digits-plain-8-seed0/model.safetensors: that run did not finish" in " ".join(stderr.split())
    assert len(json.loads(out)["runs"]) == 9
    shutil.rmtree(copy / "runs" / "digits-plain-8-seed0")
    assert without_figures(*command)[0] == 0
    assert [run["status"] for run in write_report(copy)["runs"]] == ["done"] * 10
