"""Comparisons paired by seed, and the statistics that they use."""

import dataclasses

import pytest

from helpers.synthetic_runs import synthetic_run
from resnetlab.study.run_metrics import steps_to_error, train_error
from resnetlab.study.statistics.paired_comparison import PairedComparison, compare_pairs, group_runs
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
    assert [(e.shallow, e.deep, e.train_images) for e in effects] == [(8, 56, 50), (8, 56, None)]
    assert effects[0].train.points == {0: 48.0, 1: 48.0}


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
