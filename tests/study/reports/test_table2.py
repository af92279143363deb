"""Errors of a study beside Table 2 of the paper."""

import dataclasses

import pytest

from helpers.synthetic_runs import synthetic_run
from resnetlab.study.reports.table2 import published_error, tables_2

TRAIN = {("plain", 18): 5.0, ("plain", 34): 7.0, ("residual", 18): 4.0, ("residual", 34): 3.0}


def runs(arms=("plain", "residual"), depths=(18, 34), seeds=(0, 1, 2), **changes):
    return [
        synthetic_run(arm, depth, seed, TRAIN[arm, depth] + 0.1 * seed * depth / 18, family="imagenet", **changes)
        for arm in arms
        for depth in depths
        for seed in seeds
    ]


def mean(stats):
    assert stats is not None
    return stats.mean


def test_published_errors():
    errors = [published_error(arm, depth) for depth in (18, 34) for arm in ("plain", "residual")]
    assert errors == [27.94, 27.88, 28.54, 25.03]


def test_rows_and_changes():
    (table,) = tables_2(runs())
    assert [row.network for row in table.rows] == ["plain-18", "residual-18", "plain-34", "residual-34"]
    assert [row.published_error_pct for row in table.rows] == [27.94, 27.88, 28.54, 25.03]
    assert [mean(row.train_error_pct) for row in table.rows] == pytest.approx(
        [5.1, 4.1, 7 + 0.17 / 0.9, 3 + 0.17 / 0.9]
    )
    plain, residual = table.changes
    assert plain.published == pytest.approx(0.60)
    assert residual.published == pytest.approx(-2.85)
    assert plain.train.mean == pytest.approx(2 + 0.1 * 16 / 18)
    assert "training error of plain networks by +2.09 points (95 % interval 1.9 to 2.3)" in table.sentence
    assert "the latter changes by −2.85" in table.sentence


def test_a_single_depth_has_rows_and_no_change():
    (table,) = tables_2(runs(arms=("residual",), depths=(34,)))
    assert [row.network for row in table.rows] == ["residual-34"]
    assert table.changes == ()
    assert "16 more layers" not in table.sentence


def test_one_seed_has_no_interval():
    (table,) = tables_2(runs(seeds=(0,)))
    assert "by +2.00 points (one seed)" in table.sentence


def test_without_a_test_split_the_validation_error_counts():
    validated = [dataclasses.replace(run, result={**run.result, "test_error_pct": None}) for run in runs()]
    (table,) = tables_2(validated)
    assert table.unseen_split == "val"
    assert mean(table.rows[0].unseen_error_pct) == pytest.approx(6.1)


def test_other_networks_have_no_table():
    assert tables_2([synthetic_run("plain", 20, 0, 5.0), synthetic_run("residual", 56, 0, 5.0)]) == []


def test_each_data_set_has_a_table():
    tables = tables_2([*runs(), *runs(data="photos")])
    assert [table.data for table in tables] == ["digits", "photos"]
