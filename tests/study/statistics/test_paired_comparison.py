"""Comparisons paired by seed, and the statistics that they use."""

import dataclasses
import statistics

import pytest

from helpers.synthetic_runs import synthetic_run
from resnetlab.study.reports.report_table import table_rows
from resnetlab.study.results import data_folder_name
from resnetlab.study.run_metrics import first_gradient, generalisation_gap, steps_to_error, train_error, unseen_error
from resnetlab.study.statistics.arm_comparisons import Setting, compare
from resnetlab.study.statistics.paired_comparison import PairedComparison, compare_errors, compare_pairs, group_runs
from resnetlab.study.statistics.seed_stats import format_range, seed_stats, two_figures


def by_seed(*runs):
    return {run.seed: run for run in runs}


def test_only_common_seeds_are_compared():
    low = by_seed(
        synthetic_run("plain", 20, 0, 1.0), synthetic_run("plain", 20, 1, 2.0), synthetic_run("plain", 20, 2, 3.0)
    )
    high = by_seed(synthetic_run("plain", 56, 0, 50.0), synthetic_run("plain", 56, 2, None, status="diverged"))
    found = compare_pairs(low, high, train_error)
    assert found is not None
    assert found == PairedComparison({0: 49.0})
    assert (found.interval, found.is_clear, found.interval_text) == (None, False, "one seed")
    assert compare_pairs(low, {}, train_error) is None


def test_clear_needs_every_seed_and_the_interval():
    assert PairedComparison({0: 69.0, 1: 70.0, 2: 73.5}).is_clear
    assert not PairedComparison({0: 69.0, 1: 70.0, 2: -1.0}).is_clear
    wide = PairedComparison({0: 1.0, 1: 2.0, 2: 90.0})
    assert not wide.is_clear
    assert wide.sign_text == "+ + +"
    assert PairedComparison({0: 69.0, 1: 70.0, 2: 73.5}).interval == pytest.approx(
        (70.8333 - 5.866, 70.8333 + 5.866), abs=0.01
    )


def with_sizes(run, **sizes):
    return dataclasses.replace(run, start={"data": {**run.start["data"], **sizes}})


SIZES = {"num_train": 50, "num_val": 100, "num_test": 200}


@pytest.mark.parametrize(
    ("metric", "step"), [(train_error, 2.0), (unseen_error, 0.5), (generalisation_gap, 2.0), (first_gradient, 0.0)]
)
def test_seeds_that_agree_vary_by_one_image(metric, step):
    """50 training images: errors are multiples of 2 points, so two seeds with +4 points show little."""
    shallow, deep = (
        by_seed(*(with_sizes(synthetic_run("plain", depth, seed, error, test=error), **SIZES) for seed in (0, 1)))
        for depth, error in ((20, 0.0), (56, 4.0))
    )
    for found in (compare_pairs(shallow, deep, metric), compare_errors(shallow, deep, metric)):
        assert found is not None
        assert found.smallest_step == step
        assert found.interval is not None
        assert found.interval[1] - found.mean == pytest.approx(12.706 * step / 2**0.5, abs=1e-3)
        assert not found.is_clear


def test_the_validation_image_counts_without_a_test_split():
    run = with_sizes(synthetic_run("plain", 20, 0, 1.0), **SIZES)
    without = dataclasses.replace(run, result={**run.result, "test_error_pct": None})
    found = compare_pairs(by_seed(without), by_seed(without), unseen_error)
    assert found is not None
    assert found.smallest_step == 1.0


def test_intervals_of_a_verdict_and_of_a_comparison_are_one():
    """Also beyond the ten seeds of a printed table: 97.5 % of Student's t with 20 degrees of freedom is 2.086."""
    first = {seed: synthetic_run("plain", 20, seed, 1.0 + 0.1 * (seed % 3)) for seed in range(21)}
    second = {seed: synthetic_run("residual", 20, seed, 2.0 + seed / 10) for seed in range(21)}
    paired = compare_pairs(first, second, train_error)
    comparison = compare(Setting("digits", 20, None, "train"), ("plain", first), ("residual", second))
    assert paired is not None
    assert comparison is not None
    assert paired.interval == comparison.interval
    assert paired.interval is not None
    half = 2.086 * statistics.stdev(paired.points.values()) / 21**0.5
    assert paired.interval[1] - paired.mean == pytest.approx(half, rel=1e-3)


def test_depth_effects_for_each_number_of_images():
    runs = [
        synthetic_run("plain", depth, seed, depth + seed, train_images=size)
        for depth in (8, 20, 56)
        for seed in (0, 1)
        for size in (50, None)
    ]
    (group,) = group_runs(runs)
    assert group.train_sizes == [50, None]
    effects = group.depth_effects()
    assert [(e.shallow, e.deep, e.train_images) for e in effects] == [
        (8, 56, 50),
        (20, 56, 50),
        (8, 56, None),
        (20, 56, None),
    ]
    assert [effect.train.points for effect in effects[:2]] == [{0: 48.0, 1: 48.0}, {0: 36.0, 1: 36.0}]


def test_seed_stats():
    assert seed_stats([1.0, None, 3.0]) == seed_stats([3.0, 1.0])
    assert str(seed_stats([1.0, 3.0])) == "2.00 ± 1.41"
    assert str(seed_stats([2.0])) == "2.00"
    assert seed_stats([None]) is None
    assert seed_stats([1.0, float("inf")]) == seed_stats([float("inf"), 2.0])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.04231, "0.042"),
        (171.0, "170"),
        (2.4e-8, "2.4e−8"),
        (-3.0, "−3"),
        (1e30, "1e30"),
        (float("inf"), "not finite"),
    ],
)
def test_two_figures(value, text):
    assert two_figures(value) == text


def test_format_range():
    assert format_range([3.0, None, 1.5]) == "1.5 to 3"
    assert format_range([2.0, 2.0]) == "2"
    assert format_range([None]) == "unknown"


def test_steps_to_error():
    epochs = (
        {"step": 4, "val_error_pct": 9.0, "curve": {"step": [2, 4], "train_error_pct": [80.0, 40.0]}},
        {"step": 8, "val_error_pct": 9.0, "curve": {"step": [6, 8], "train_error_pct": [20.0, 30.0]}},
    )
    run = dataclasses.replace(synthetic_run("plain", 20, 0, 1.0), epochs=epochs)
    assert [steps_to_error(run, pct) for pct in (90, 50, 20, 19)] == [2, 4, 6, None]


@pytest.mark.parametrize(("ends", "median"), [([4], 4), ([4, 8], 6), ([4, 8, 40], 8), ([4, 7], 5.5)])
def test_the_table_has_the_median_number_of_steps(ends, median):
    runs = []
    for seed, end in enumerate(ends):
        run = synthetic_run("plain", 20, seed, 1.0)
        curve = {"step": [end], "loss": [1.0], "train_error_pct": [40.0]}
        result = {**run.result, "time_s": 1.0}
        epochs = ({"step": end, "val_error_pct": 9.0, "curve": curve},)
        runs.append(dataclasses.replace(run, epochs=epochs, result=result))
    (row,) = table_rows(runs)
    assert (row.steps_to[50], row.steps_to[20]) == ((median, len(ends)), None)


@pytest.mark.parametrize("name", [".", "..", "photos/.."])
def test_a_path_that_says_nothing_has_the_name_of_the_record(name, tmp_path, monkeypatch):
    """A report that is made in another folder has the same name."""
    (tmp_path / "shapes" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "shapes")
    unstarted = synthetic_run("plain", 20, 0, 1.0, data=name)
    assert unstarted.data == data_folder_name(unstarted.config.data) != ""
    started = dataclasses.replace(unstarted, start={"data": {**unstarted.start["data"], "name": "shapes"}})
    monkeypatch.chdir(tmp_path)
    assert (started.data, started.data_label) == ("shapes", "shapes")
    assert synthetic_run("plain", 20, 0, 1.0, data="some/photos").data == "photos"
