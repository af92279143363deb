"""What a verdict lacks, on synthetic runs: the sentence, and a command that adds it."""

import dataclasses
import shlex
from pathlib import Path

import pytest

from helpers.synthetic_groups import (
    DEGRADED,
    EXPLODED,
    FALLING,
    OVERFITTED,
    VANISHED,
    grid,
    kinds,
    with_control,
    with_recipe,
)
from helpers.synthetic_runs import synthetic_run
from resnetlab.cli.main import parse
from resnetlab.cli.study import Options, build_grid, selection_note
from resnetlab.serialization import differences
from resnetlab.study.arms import arm_network
from resnetlab.study.presets import get_preset
from resnetlab.study.reports.run_notes import run_notes
from resnetlab.study.run_metrics import epoch_selection
from resnetlab.study.study_command import Additions, study_command
from resnetlab.study.verdicts.verdict import verdicts, without_repetition
from resnetlab.training.recipe_settings import named_recipe


def added_grid(command):
    words = shlex.split(command)
    assert words[:2] == ["resnetlab", "study"]
    return build_grid(parse(Options, "study", words[2:]), get_preset(None))


@pytest.mark.parametrize(
    ("runs", "added"),
    [
        (grid("plain", [1.0], [70.0]), {"num_seeds": 3}),
        (grid("plain", [1.0, 2.0, 1.5], [1.0, 9.0, 20.0]), {"num_seeds": 6}),
        (grid("plain", [1.0, 2.0, 1.5], [40.0, 42.0, 41.0], losses=FALLING), {"epochs": 2}),
        (with_control([60.0] * 3)[0], {"arms": ("plain", "plain-capped")}),
    ],
)
def test_missing_evidence_is_a_command_that_adds_it(runs, added):
    (finding,) = verdicts(runs)
    assert finding.kind == "not enough evidence"
    grid = added_grid(finding.command)
    expected = {"num_seeds": len({run.seed for run in runs}), "arms": ("plain",), "epochs": 1, **added}
    (dataset,) = grid.datasets
    found = {"num_seeds": grid.num_seeds, "arms": grid.arms, "epochs": dataset.recipe.epochs}
    assert (found, grid.depths, grid.identity_init) == (expected, (20, 56), False)
    # a study in the same folder accepts its runs
    assert "epochs" in added or dataset.recipe == runs[0].config.recipe


def test_a_verdict_needs_no_command():
    assert [finding.command for finding in verdicts(DEGRADED)] == [None]


@pytest.mark.parametrize("name", ["cifar-paper", "fast"])
def test_the_command_gives_every_setting_of_the_runs(name):
    """A run of `fast` may have a warm-up of 6 epochs that does not follow its length."""
    run = synthetic_run("C", 20, 0, 1.0, data="some photos", train_images=50)
    recipe = dataclasses.replace(
        named_recipe(name), steps=None, batch_size=64, milestones=(0.3, 0.6), nesterov=True, epochs=7
    )
    config = dataclasses.replace(
        run.config,
        model=arm_network("C", 20, norm="none", init_scale=0.5),
        data=dataclasses.replace(run.config.data, image_size=32, on_bad_image="skip", split_folders="train=a,test=b"),
        recipe=recipe,
        precision="bf16",
    )
    run = dataclasses.replace(run, config=config, directory=Path("my studies/x/runs/photos-C-20-seed0"))
    words = shlex.split(study_command([run], Additions(num_seeds=4)))
    options = parse(Options, "study", words[2:])
    assert options.out == Path("my studies/x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resnetlab.data.registry.detect_kind", lambda data: None)
        made = build_grid(options, get_preset(None)).runs()
    expected = dataclasses.replace(config, layout="channels_last", compile="off")
    assert {differences(expected, dataclasses.replace(other, seed=0)) == [] for other in made} == {True}
    assert len(made) == 4


@pytest.mark.parametrize("changes", [{"keep": "best"}, {"early_stop_epochs": 3}])
def test_an_epoch_that_validation_selected_says_nothing_about_optimisation(changes):
    healthy = grid("plain", [1.0, 2.0, 1.5], [1.0, 1.9, 1.4])
    assert kinds(healthy) == [("plain", "healthy")]
    for runs in (DEGRADED, VANISHED, healthy):
        selected = [with_recipe(run, **changes) for run in runs]
        if "early_stop_epochs" in changes:
            selected = [dataclasses.replace(run, result=run.result | {"stopped_early": True}) for run in selected]
        (finding,) = verdicts(selected)
        assert finding.kind == "not enough evidence"
        assert "an epoch that validation images selected" in finding.sentence
        options = parse(Options, "study", shlex.split(finding.command)[2:])
        (training,) = {dataset.recipe for dataset in build_grid(options, get_preset(None)).datasets}
        assert (training.keep, training.early_stop_epochs) == ("last", None)
        last = {"best_epoch": 1, "epochs": 1, "stopped_early": False}  # the end was measured after all
        ended = [dataclasses.replace(run, result={**run.result, **last}) for run in selected]
        assert kinds(ended) == kinds(runs)
        assert len(run_notes(selected)) == 1
        assert run_notes(ended) == []


def test_one_seed_of_a_selected_epoch_is_not_told_to_add_seeds_of_the_same_kind():
    runs = [with_recipe(run, keep="best") for run in grid("plain", [1.0], [2.0])]
    (finding,) = verdicts(runs)
    assert "from one seed" in finding.sentence
    (training,) = {
        dataset.recipe
        for dataset in build_grid(parse(Options, "study", shlex.split(finding.command)[2:]), get_preset(None)).datasets
    }
    assert training.keep == "last"


@pytest.mark.parametrize(("steps", "stops"), [(400, False), (399, True)])
def test_an_older_record_shows_by_its_steps_whether_a_run_stopped_early(steps, stops):
    run = with_recipe(synthetic_run("plain", 20, 0, 1.0), early_stop_epochs=3, steps=400)
    run = dataclasses.replace(run, result=run.result | {"steps": steps}, epochs=(), layer_stats=())
    assert (epoch_selection(run) is not None) == stops


def test_a_study_says_before_its_runs_that_validation_will_select_epochs():
    def note(*words):
        return selection_note(build_grid(parse(Options, "study", words), get_preset(None)))

    assert note() is None
    assert "--set keep=last early_stop_epochs=none" in (note("--recipe", "scratch") or "")
    assert "no verdict" in (note("--set", "early_stop_epochs=3") or "")
    assert note("--recipe", "scratch", "--set", "keep=last", "early_stop_epochs=none") is None


def test_runs_that_end_in_nan_or_overfit_say_so_at_any_epoch():
    assert kinds([with_recipe(run, keep="best") for run in EXPLODED]) == [("plain", "unstable")]
    assert kinds([with_recipe(run, keep="best") for run in OVERFITTED]) == [("residual", "overfitting")]


def test_arms_of_one_depth_lack_one_thing_together():
    runs = [synthetic_run(arm, 20, seed, 1.0 + seed) for arm in ("plain", "A", "C") for seed in range(3)]
    found = verdicts(runs)
    assert len(found) == 3
    (merged,) = without_repetition(found)
    assert merged.arm == "plain, A, C"
    grid = added_grid(merged.command)
    assert (grid.arms, grid.depths, grid.num_seeds) == (("plain", "A", "C"), (20, 56), 3)
    assert without_repetition(verdicts(DEGRADED)) == verdicts(DEGRADED)
