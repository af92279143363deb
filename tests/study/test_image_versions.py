"""Runs on images that changed between them: `study` refuses them, a report does not compare them."""

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.synthetic_runs import CLASSES, synthetic_run
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.open_dataset import open_data
from resnetlab.study.grid import Grid, StudyData, run_study
from resnetlab.study.image_versions import check_image_versions, first_of_each_version
from resnetlab.study.reports.report import StudyReport, render_page
from resnetlab.study.results import read_runs
from resnetlab.training.recipes import recipe

OLD, NEW = "0" * 64, "1" * 64


def on_images(run, fingerprint, started="2026-01-01"):
    data = {"classes": CLASSES, "num_train": 9, "num_val": 9, "num_test": 9, "preprocessing": {"image_size": 8}}
    known = {} if fingerprint is None else {"fingerprint": fingerprint}
    machine = {"name": "m", "cores": 1, "system": "s", "threads": 1, "device": "cpu"}
    start = {"data": data | known, "versions": {"torch": f"2.{started[3]}"}, "machine": machine, "started": started}
    return replace(run, start=start, result=run.result | {"time_s": 1.0})


def study(arms=("plain", "residual"), seeds=(0, 1), **changes):
    return [synthetic_run(arm, 8, seed, 5.0 + seed, **changes) for arm in arms for seed in seeds]


def test_only_runs_on_the_images_of_most_are_compared():
    runs = [on_images(run, OLD) for run in study()]
    runs += [on_images(run, NEW, "2027-01-01") for run in study(arms=("C",), seeds=(0, 1))]
    report = StudyReport(runs)
    assert {arm for c in report.comparisons for arm in (c.first, c.second)} == {"plain", "residual"}
    (sentence,) = report.notes
    assert "2 runs read other images of digits" in sentence
    assert "C-8 seed 0, C-8 seed 1" in sentence
    assert report.as_json()["notes"] == [sentence]
    assert len(report.as_json()["runs"]) == 6
    assert [run.start["data"]["fingerprint"] for _, run in first_of_each_version(runs)] == [OLD, NEW]
    page = render_page(report, [])
    assert all(word in page for word in (OLD[:16], NEW[:16], sentence, "torch 2.6; torch 2.7"))


def test_of_equally_many_runs_the_later_images_count():
    runs = [on_images(run, OLD) for run in study(arms=("plain",))]
    runs += [on_images(run, NEW, "2027-01-01") for run in study(arms=("residual",))]
    assert {run.arm for run in StudyReport(runs).compared} == {"residual"}


def test_runs_that_did_not_end_do_not_outvote_those_that_did():
    """Resumed after the images changed, the unfinished runs failed; the others were trained on the new images."""
    failed = [replace(on_images(run, OLD), status="failed", result={}) for run in study(seeds=(0, 1, 2))]
    done = [on_images(run, NEW) for run in study(seeds=(3, 4))]
    assert {run.status for run in StudyReport([*failed, *done]).compared} == {"done"}


def test_records_without_a_fingerprint_and_other_subsets_are_compared():
    runs = [on_images(run, None) for run in study(arms=("plain",))]
    runs += [on_images(run, NEW) for run in study(arms=("residual",))]
    runs += [on_images(run, OLD) for run in study(train_images=50)]
    report = StudyReport(runs)
    assert report.notes == []
    assert list(report.compared) == runs
    assert "9 training" in render_page(report, [])
    check_image_versions(runs, [], Path("out"))


def test_a_study_refuses_finished_runs_on_other_images(tiny_study):
    runs = read_runs(tiny_study)
    assert len({run.start["data"]["fingerprint"] for run in runs}) == 1  # deepened networks too
    assert runs[0].start["data"]["fingerprint"] == open_data(DataConfig("digits")).fingerprint
    pending = [runs[0].config]
    check_image_versions(runs, pending, tiny_study)
    changed = [on_images(runs[0], OLD), *runs[1:]]
    with pytest.raises(ConfigError, match=r"other images of digits, which changed since \(plain-8 seed 0\)"):
        check_image_versions(changed, pending, tiny_study)
    check_image_versions(changed, [], tiny_study)  # nothing is left to make: the report names the run
    everything = [on_images(run, OLD) for run in runs]
    check_image_versions(everything, [], tiny_study)
    with pytest.raises(ConfigError, match="and 5 more"):
        check_image_versions(everything, pending, tiny_study)
    gone = replace(runs[0].config, data=DataConfig("/nowhere/digits"))
    check_image_versions(everything, [gone], tiny_study)  # the run itself will say that they cannot be opened


def test_the_images_are_checked_before_any_run_is_made(tiny_study, tmp_path, monkeypatch):
    import resnetlab.study.grid as grid_module

    old = [on_images(run, OLD) for run in read_runs(tiny_study) if run.arm == "plain" and not run.is_from_file]
    monkeypatch.setattr(grid_module, "read_runs", lambda out: old)
    training = recipe("digits", epochs=1)
    grid = Grid((StudyData(DataConfig("digits"), training),), depths=(8,), arms=("residual",), num_seeds=1)
    with pytest.raises(ConfigError, match="other images of digits"):
        next(run_study(grid, tmp_path / "study", num_workers=1))


def test_images_of_a_study_on_other_machines_are_not_opened_on_this_one(tiny_study, tmp_path, monkeypatch):
    """A head of a Ray cluster may have no images; the report compares the runs' own fingerprints."""
    import resnetlab.study.grid as grid_module
    import resnetlab.study.image_versions as image_versions

    old = [on_images(run, OLD) for run in read_runs(tiny_study) if run.arm == "plain" and not run.is_from_file]
    monkeypatch.setattr(grid_module, "read_runs", lambda out: old)
    opened = []
    monkeypatch.setattr(image_versions, "_fingerprint", opened.append)
    grid = Grid((StudyData(DataConfig("digits"), recipe("digits", epochs=1)),), (8,), ("residual",), num_seeds=1)
    for is_remote, count in ((True, 0), (False, 1)):
        list(
            run_study(
                grid, tmp_path / "study", num_workers=1, executor=lambda tasks: (_ for _ in ()), is_remote=is_remote
            )
        )
        assert len(opened) == count
