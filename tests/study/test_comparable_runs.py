"""Runs of one folder with other settings, or of one network and seed twice: a report compares only what it can."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.synthetic_groups import DEGRADED, grid, with_control, with_recipe
from helpers.synthetic_runs import synthetic_run
from resnetlab.config import DataConfig
from resnetlab.study.comparable_runs import comparable_runs
from resnetlab.study.grid import Grid, StudyData
from resnetlab.study.preset_grid import preset_grid
from resnetlab.study.presets import PRESETS
from resnetlab.study.reports.report import StudyReport
from resnetlab.training.recipes import recipe


def started(run, when, directory=None):
    run = replace(run, start=run.start | {"started": when}, result=run.result | {"time_s": 1.0, "images_per_s": 1.0})
    return run if directory is None else replace(run, directory=Path(directory))


def with_model(run, **changes):
    return replace(run, config=replace(run.config, model=replace(run.config.model, **changes)))


def test_other_lengths_give_no_verdict_on_depth():
    """Shallow networks of fifty epochs beside deep ones of one."""
    shallow = [started(with_recipe(run, epochs=50), "2026-01-01") for run in DEGRADED if run.depth == 20]
    deep = [started(run, "2026-02-01") for run in DEGRADED if run.depth == 56]
    report = StudyReport(shallow + deep)
    assert [verdict.kind for verdict in report.verdicts] == ["not enough evidence"]
    assert report.notes == [
        "3 runs on digits have other settings than most (recipe.epochs: 1 -> 50), and are compared with none: plain-20 "
        "seed 0, plain-20 seed 1, plain-20 seed 2. Train all with the same settings to compare them."
    ]
    assert len(report.as_json()["runs"]) == 6


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda run: with_recipe(run, lr=0.1, batch_size=8, steps=7, momentum=0.5), "and 1 more"),
        (lambda run: with_recipe(run, max_update=0.3), "recipe.max_update: None -> 0.3"),
        (lambda run: with_model(run, stage_channels=(32, 64, 128)), "network.stage_channels: (16, 32, 64) -> (32, 64"),
        (lambda run: with_model(run, norm="none"), "norm: batch -> none"),
        (lambda run: replace(run, config=replace(run.config, precision="bf16")), "precision: fp32 -> bf16"),
        (lambda run: replace(run, config=replace(run.config, own_model="Mine")), "own_model: None -> Mine"),
        (
            lambda run: replace(run, config=replace(run.config, data=replace(run.config.data, image_size=32))),
            "image_size: 8 -> 32",
        ),
    ],
)
def test_one_run_with_other_settings_is_left_out(change, text):
    same = [
        replace(
            run,
            config=replace(run.config, precision="fp32", data=replace(run.config.data, image_size=8)),
        )
        for run in DEGRADED
    ]
    runs = [*same[:-1], change(same[-1])]
    found = comparable_runs(runs)
    assert found.runs == runs[:-1]
    (note,) = found.notes
    assert text in note
    assert "1 run on digits has other settings than most" in note


def test_a_second_set_of_runs_does_not_replace_the_first():
    """The shallow networks trained again elsewhere, and worse: the verdict is that of the first ones."""
    again = [started(synthetic_run("plain", 20, seed, 80.0 + seed), "2026-03-01", f"again-{seed}") for seed in range(3)]
    first = [started(run, "2026-01-01") for run in DEGRADED]
    for runs in (first + again, again + first):
        report = StudyReport(runs)
        assert [verdict.kind for verdict in report.verdicts] == ["degradation"]
        assert report.notes == [
            "3 runs on digits repeat the network and seed of another, and are compared with none: again-0, again-1, "
            "again-2. The first that ended counts; move the others away, or give them other seeds."
        ]
        assert {row.num_seeds for row in report.rows} == {3}


def test_a_run_that_ended_in_nan_is_not_replaced_by_a_better_one():
    nan = started(synthetic_run("plain", 56, 0, None, status="diverged"), "2026-01-01")
    failed = replace(started(synthetic_run("plain", 56, 0, None, status="failed"), "2025-01-01", "failed"))
    better = started(DEGRADED[3], "2026-03-01", "better")
    assert comparable_runs([failed, better, nan]).runs == [nan]


@pytest.mark.parametrize("preset", [name for name, preset in PRESETS.items() if not preset.architectures])
def test_every_run_of_a_preset_is_compared(preset):
    made = preset_grid(PRESETS[preset], [DataConfig("digits")])
    runs = [replace(DEGRADED[0], config=config) for config in made.runs()]
    assert comparable_runs(runs) == (runs, [])


@pytest.mark.parametrize(
    ("name", "arms", "depths", "family"),
    [
        ("cifar-paper", ("plain", "plain-capped", "C", "bottleneck", "fixup"), (20, 110), "cifar"),
        ("scratch", ("plain", "residual", "preact"), (18, 34, 50), "imagenet"),
    ],
)
def test_recipes_and_norms_that_follow_from_the_network_are_the_same(name, arms, depths, family):
    """110 layers start with a lower rate, and some blocks have no normalisation."""
    made = [
        Grid((StudyData(DataConfig("digits"), recipe(name)),), (depth,), (arm,), 2, family=family).runs()
        for arm, depth in itertools.product(arms, depths)
        if arm != "bottleneck"
    ]
    runs = [replace(DEGRADED[0], config=config) for configs in made for config in configs]
    assert comparable_runs(runs) == (runs, [])


def test_control_arms_data_sets_and_sizes_are_compared_as_they_are():
    runs, control = with_control([60.0, 62.0, 61.0])
    other = [with_recipe(run, lr=0.5) for run in grid("plain", [1.0], [2.0])]
    other = [replace(run, config=replace(run.config, data=DataConfig("mnist"))) for run in other]
    few = [replace(run, config=replace(run.config, data=replace(run.config.data, train_images=50))) for run in runs]
    everything = [*runs, *control, *other, *few]
    assert comparable_runs(everything) == (everything, [])


def test_what_a_record_does_not_say_agrees():
    auto = [replace(run, config=replace(run.config, precision="auto")) for run in DEGRADED[:2]]
    resolved = [replace(run, start=run.start | {"execution": {"precision": "fp32"}}) for run in DEGRADED[2:4]]
    fixed = [replace(run, config=replace(run.config, precision="fp32")) for run in DEGRADED[4:]]
    runs = auto + resolved + fixed
    assert comparable_runs(runs) == (runs, [])
