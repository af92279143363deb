"""Verdicts on synthetic runs with known effects, and on the same runs with shuffled labels."""

import dataclasses
import itertools
import random
import shlex
from pathlib import Path

import pytest

from helpers.synthetic_runs import layer_stats, relabelled, synthetic_run
from resnetlab.cli.main import parse
from resnetlab.cli.study import Options, build_grid, selection_note
from resnetlab.serialization import differences
from resnetlab.study.arms import arm_network
from resnetlab.study.presets import get_preset
from resnetlab.study.reports.run_notes import run_notes
from resnetlab.study.run_metrics import epoch_selection
from resnetlab.study.study_command import Additions, study_command
from resnetlab.study.verdicts.detectors import DETECTORS
from resnetlab.study.verdicts.rules import FAILING, RULES
from resnetlab.study.verdicts.verdict import verdicts, without_repetition
from resnetlab.training.recipe_settings import named_recipe

FAILS = {rule.kind for rule in FAILING} - {"unstable"}
"""Without `unstable`, which a run that ends in NaN gives under any label."""


def grid(arm, shallow, deep, **deep_options):
    shallow_runs = [synthetic_run(arm, 20, seed, error) for seed, error in enumerate(shallow)]
    return shallow_runs + [synthetic_run(arm, 56, seed, error, **deep_options) for seed, error in enumerate(deep)]


def kinds(runs):
    return [(finding.arm, finding.kind) for finding in verdicts(runs)]


def sentence(runs):
    (finding,) = verdicts(runs)
    return finding.sentence


def with_recipe(run, **changes):
    recipe = dataclasses.replace(run.config.recipe, **changes)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, recipe=recipe))


DEGRADED = grid("plain", [1.0, 2.0, 1.5], [70.0, 72.0, 75.0])
VANISHED = grid("plain", [1.0, 2.0, 1.5], [90.0, 90.0, 89.9], gradient=1e-9, losses=(2.3,) * 8)
EXPLODED = [
    *(synthetic_run("plain", 20, seed, 1.0 + seed) for seed in range(3)),
    *(synthetic_run("plain", 56, seed, None, status="diverged", gradient=1e9 * (seed + 1)) for seed in range(3)),
]
OVERFITTED = [
    *(
        synthetic_run("residual", depth, seed, 0.0, test=25.0 + seed, train_images=50)
        for depth in (20, 56)
        for seed in range(3)
    ),
    *(synthetic_run("residual", depth, seed, 0.1, test=2.0 + seed / 2) for depth in (20, 56) for seed in range(3)),
]


def test_every_failing_rule_has_a_detector():
    assert list(DETECTORS) == [rule.kind for rule in FAILING]
    assert [rule.kind for rule in RULES[-2:]] == ["healthy", "not enough evidence"]


def test_degradation():
    assert kinds(DEGRADED) == [("plain", "degradation")]
    # by hand: differences 69, 70, 73.5; t 4.303, s 2.3629
    assert sentence(DEGRADED).startswith(
        "plain-56 ends 70.8 points of training error above plain-20 on average over 3 seeds (signs + + +; 95 % "
        "interval 65.0 to 76.7)"
    )


FALLING = (2.3, 2.2, 2.1, 2.0, 1.9, 1.8, 1.6, 1.5)
FLAT = (2.3, *[1.5] * 7)


def test_networks_that_still_improve_do_not_degrade():
    """Residual networks after 0.6 % of the paper's steps: the deeper is behind, and both are under way."""
    shallow = [synthetic_run("residual", 20, seed, 40.0 + seed / 2, losses=FALLING) for seed in range(3)]
    early = shallow + grid("residual", [], [63.0, 64.0, 62.5], losses=FALLING[:1] + FLAT[1:])
    assert kinds(early) == [("residual", "not enough evidence")]
    assert "residual-20 ends at 40 to 41 % training error, and the loss still fell" in sentence(early)
    short = [synthetic_run("residual", 20, seed, 40.0 + seed / 2, losses=FLAT[:2]) for seed in range(3)]
    unknown = short + grid("residual", [], [63.0, 64.0, 62.5], losses=FLAT)
    assert kinds(unknown) == [("residual", "not enough evidence")]


def test_networks_that_stopped_improving_degrade_although_no_depth_has_fitted():
    """As on ImageNet, where no network fits its training set."""
    shallow = [synthetic_run("plain", 20, seed, 30.0 + seed / 10, losses=FLAT) for seed in range(3)]
    deep = [synthetic_run("plain", 56, seed, 36.0 + seed / 5, losses=FLAT) for seed in range(3)]
    assert kinds([*shallow, *deep]) == [("plain", "degradation")]


def test_a_deep_network_that_still_learns_fast_does_not_degrade():
    """The shallow network has fitted; the deep one is under way and may only need more steps."""
    runs = grid("plain", [1.0, 2.0, 1.5], [40.0, 42.0, 41.0], losses=FALLING)
    assert kinds(runs) == [("plain", "not enough evidence")]
    assert "plain-56 was still learning when the learning rate was lowered (its loss fell by 16 %" in sentence(runs)
    slower = tuple(loss**0.25 for loss in FALLING)  # by 4 %
    assert kinds(grid("plain", [1.0, 2.0, 1.5], [40.0, 42.0, 41.0], losses=slower)) == [("plain", "degradation")]


def test_gradients_that_explode_later_are_not_blamed_on_the_learning_rate():
    runs = [synthetic_run("plain", 20, seed, 1.0) for seed in range(3)]
    for seed in range(3):
        run = synthetic_run("plain", 56, seed, None, status="diverged")
        later = layer_stats(run.config.model, 17, 1e9)
        runs.append(dataclasses.replace(run, layer_stats=(run.layer_stats[0], later)))
    assert kinds(runs) == [("plain", "unstable")]


def with_control(errors, first_layer=1700.0, **options):
    """Return plain networks whose first step overwrites their first convolution, and the control arm."""
    runs = grid("plain", [1.0, 2.0, 1.5], [70.0, 72.0, 75.0])
    steep = layer_stats(runs[0].config.model, grad_to_weight=[first_layer, 0.1, 0.1])
    runs = [dataclasses.replace(run, layer_stats=(steep, *run.layer_stats)) if run.depth == 56 else run for run in runs]
    control = []
    for run in runs:
        recipe = dataclasses.replace(run.config.recipe, max_update=0.05)
        changed = dataclasses.replace(run, config=dataclasses.replace(run.config, recipe=recipe))
        if run.depth == 56:
            error = errors[run.seed]
            unseen = {"val_error_pct": error + 1, "test_error_pct": error + 1}
            result = run.result | {"train_error_pct": error} | unseen
            changed = dataclasses.replace(changed, result=result)
        control.append(changed)
    return runs, control


def test_a_step_that_overwrites_a_layer_leaves_the_cause_open():
    runs, _ = with_control([60.0] * 3)
    assert kinds(runs) == [("plain", "not enough evidence")]
    assert "the longest step of any layer (conv1) is 17 times its weights" in sentence(runs)
    assert "--arms plain plain-capped" in sentence(runs)


def test_the_control_arm_decides_that_it_is_degradation():
    runs, control = with_control([60.0, 62.0, 61.0])
    assert kinds(runs + control) == [("plain", "degradation"), ("plain-capped", "degradation")]
    text = verdicts(runs + control)[0].sentence
    assert "plain-capped-56 still ends at 60 to 62 % training error against 1 to 2 % of plain-capped-20" in text
    assert "Yang et al. (2019" in text


def test_the_control_arm_decides_that_long_steps_are_the_cause():
    runs, control = with_control([1.2, 2.1, 1.4])
    assert kinds(runs + control) == [("plain", "exploding"), ("plain-capped", "healthy")]
    assert "So the long steps are the cause, not depth itself." in verdicts(runs + control)[0].sentence


def test_a_control_arm_of_other_depths_does_not_decide():
    runs, control = with_control([60.0, 62.0, 61.0])
    assert kinds(runs + [run for run in control if run.depth == 20])[0] == ("plain", "not enough evidence")


@pytest.mark.parametrize("num_diverged", [1, 2, 3])
def test_runs_that_end_in_nan_are_the_worst_result(num_diverged):
    """Their seeds are not dropped: neither healthy nor degradation is said of the rest."""
    for good in ([0.5, 0.6, 0.4, 0.5], [70.0, 71.0, 72.0, 70.5]):
        runs = [synthetic_run("residual", 20, seed, 0.5) for seed in range(4)]
        runs += [synthetic_run("residual", 56, seed, error) for seed, error in enumerate(good)][num_diverged:]
        runs += [synthetic_run("residual", 56, seed, None, status="diverged") for seed in range(num_diverged)]
        assert kinds(runs) == [("residual", "unstable")]
        assert f"residual-56: {num_diverged} of 4 runs end in NaN" in sentence(runs)


def test_depths_between_the_end_depths_count():
    runs = [
        synthetic_run("residual", depth, seed, error + seed / 10)
        for depth, error in ((20, 1.0), (56, 80.0), (110, 1.0))
        for seed in range(3)
    ]
    assert kinds(runs) == [("residual", "not enough evidence")]
    assert "residual-56 ends 79.0 points of training error above residual-20" in sentence(runs)


def test_clear_but_small_effect_is_no_degradation():
    assert kinds(grid("plain", [1.0, 1.1, 1.2], [1.5, 1.6, 1.7])) == [("plain", "healthy")]


@pytest.mark.parametrize("gradient", [1e-9, 1e9])
def test_unsound_gradients_exclude_degradation(gradient):
    runs = grid("plain", [1.0, 2.0, 1.5], [30.0, 32.0, 35.0], gradient=gradient)  # the networks have learnt
    assert kinds(runs) == [("plain", "not enough evidence")]


def test_degradation_needs_layer_stats():
    runs = [dataclasses.replace(run, layer_stats=()) for run in DEGRADED]
    assert kinds(runs) == [("plain", "not enough evidence")]
    assert "no gradients were recorded" in sentence(runs)


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_no_verdict_reads_the_steps_of_other_optimizers_from_gradients(name):
    """Of these runs, SGD's would give degradation, vanishing, healthy and long steps."""
    good = grid("plain", [0.5, 0.6, 0.7], [0.3, 0.4, 0.6])
    steep, control = with_control([1.2, 2.1, 1.4])
    for runs in (DEGRADED, VANISHED, good, [*steep, *control]):
        for verdict in verdicts([with_recipe(run, optimizer=name) for run in runs]):
            assert (verdict.kind, verdict.command) == ("not enough evidence", None)
            assert f"but with optimizer {name} the gradients do not tell the steps of the layers" in verdict.sentence
    deep = [synthetic_run("plain", 56, seed, None, status="diverged") for seed in range(3)]
    rising = [with_recipe(run, optimizer=name) for run in (*grid("plain", [1.0, 2.0, 1.5], []), *deep)]
    (verdict,) = verdicts(rising)
    assert verdict.kind == "learning rate too high"
    assert "unknown" not in verdict.sentence
    assert verdict.sentence.endswith("(at the start 0.1 of the weights). Try lr 0.001.")


def test_vanishing():
    assert kinds(VANISHED) == [("plain", "vanishing")]
    assert "could move by 4e−8 times its own length" in sentence(VANISHED)  # 0.01 x 1e-9 x 400 steps / (1 - 0.9)


def test_exploding_of_runs_that_end_in_nan():
    assert kinds(EXPLODED) == [("plain", "exploding")]
    assert "3 of 3 runs end in NaN" in sentence(EXPLODED)
    assert "1e9 to 3e9 times its weights" in sentence(EXPLODED)


def test_first_gradient_that_is_not_finite_is_exploding():
    runs = [
        run
        if run.status == "done"
        else dataclasses.replace(run, layer_stats=(layer_stats(run.config.model, gradient=None),))
        for run in EXPLODED
    ]
    assert kinds(runs) == [("plain", "exploding")]


def test_failure_of_all_depths_is_no_effect_of_depth():
    same = [
        dataclasses.replace(run, layer_stats=VANISHED[-1].layer_stats, result=VANISHED[-1].result) for run in VANISHED
    ]
    assert kinds(same) == [("plain", "not enough evidence")]
    assert "plain-20 has not learnt either" in sentence(same)


def test_a_shallow_network_that_has_not_learnt_is_no_reference():
    """The deep one has learnt: no `either` then, and neither healthy nor a failing verdict."""
    runs = grid("plain", [80.0, 81.0, 82.0], [1.0, 2.0, 1.5])
    assert kinds(runs) == [("plain", "not enough evidence")]
    assert "plain-20 has not learnt (training error 80 to 82 %), so this says nothing about depth" in sentence(runs)


def test_learning_rate_too_high():
    diverged = [synthetic_run("plain", depth, seed, None, status="diverged") for depth in (20, 56) for seed in range(3)]
    assert kinds(diverged) == [("plain", "learning rate too high")]
    assert "Try lr 0.001" in sentence(diverged)
    dead = grid("residual", [90.0, 90.0, 89.0], [90.0, 90.0, 90.0], losses=(24.0, 3.0, 2.3, 2.3, 2.3, 2.3, 2.3, 2.3))
    assert kinds(dead) == [("residual", "learning rate too high")]
    calm = grid("residual", [90.0, 90.0, 89.0], [90.0, 90.0, 90.0], losses=(2.3,) * 8)
    assert kinds(calm) == [("residual", "not enough evidence")]


def test_overfitting_with_fewer_images():
    assert kinds(OVERFITTED) == [("residual", "overfitting")]
    assert "residual-56, 50 images fits the training set (0 %)" in sentence(OVERFITTED)


def test_overfitting_with_depth():
    runs = [
        *(synthetic_run("residual", 20, seed, 0.0, test=6.4) for seed in range(3)),
        *(synthetic_run("residual", 56, seed, 0.0, test=8.0 + seed / 10) for seed in range(3)),
    ]
    assert ("residual", "overfitting") in kinds(runs)
    nearly = [synthetic_run(run.arm, run.depth, run.seed, 1.5, test=run.result["test_error_pct"]) for run in runs]
    assert kinds(nearly) == [("residual", "overfitting")]
    unfitted = [
        synthetic_run(run.arm, run.depth, run.seed, 12.0, test=12 + run.result["test_error_pct"]) for run in runs
    ]
    assert kinds(unfitted) == [("residual", "not enough evidence")]
    assert "residual-56 errs by 1.7 points more on unseen images" in sentence(unfitted)


def test_gap_of_every_run_is_no_overfitting():
    runs = [synthetic_run("residual", depth, seed, 0.0, test=25.0) for depth in (20, 56) for seed in range(3)]
    assert kinds(runs) == [("residual", "healthy")]


def test_under_trained():
    runs = [synthetic_run("plain", depth, seed, 40.0 + seed, losses=FALLING) for depth in (20, 56) for seed in range(3)]
    assert kinds(runs) == [("plain", "under-trained")]
    assert "by 16 % over the last quarter of those steps" in sentence(runs)
    assert ("plain", "under-trained") not in kinds([*runs[1:], synthetic_run("plain", 20, 0, 1.0)])  # one has converged


def test_under_trained_vetoes_degradation():
    runs = [
        synthetic_run("plain", depth, seed, error + seed, losses=FALLING)
        for depth, error in ((20, 20.0), (56, 40.0))
        for seed in range(3)
    ]
    assert kinds(runs) == [("plain", "under-trained")]


def test_healthy_and_better():
    runs = grid("residual", [9.0, 9.5, 9.2], [5.0, 5.1, 5.2])
    assert kinds(runs) == [("residual", "healthy")]
    assert "4.1 points of training error below residual-20" in sentence(runs)
    assert "Deeper is better: −4.1 points of error on unseen images (95 % interval" in sentence(runs)


def three_depths(arm, errors, unseen=None):
    """Three seeds of 8, 20 and 56 layers."""
    return [
        synthetic_run(arm, depth, seed, error + seed / 10, test=(unseen or errors)[place] + seed / 10)
        for place, (depth, error) in enumerate(zip((8, 20, 56), errors, strict=True))
        for seed in range(3)
    ]


def test_deeper_is_not_called_better_by_its_training_error_alone():
    runs = three_depths("residual", [9.0, 6.0, 3.0], unseen=[12.0, 10.0, 10.5])
    assert kinds(runs) == [("residual", "healthy")]
    assert "residual-56 ends 3.0 points of training error below residual-20 (the best of 2 " in sentence(runs)
    assert "The deeper networks fit their training set better; +0.5 points of error on unseen" in sentence(runs)


def test_error_that_falls_with_depth_and_then_rises_is_degradation():
    """The deepest networks are no worse than the shallowest, and worse than those between (section 1)."""
    runs = three_depths("plain", [20.0, 5.0, 20.0])
    assert kinds(runs) == [("plain", "degradation")]
    assert sentence(runs).startswith("plain-56 ends 15.0 points of training error above plain-20 (the best of 2 ")


def test_the_best_of_several_depths_needs_a_wider_interval():
    """t of 2 degrees of freedom: 9.92 for the 99 % of one comparison, 14.1 for one of two."""
    deep = [17.4, 20.0, 22.6]  # deviation 2.6, so t = 18.5 / (2.6 / √3) = 12.3
    shallow = [synthetic_run("plain", 20, seed, 1.5) for seed in range(3)]
    runs = shallow + [synthetic_run("plain", 56, seed, error) for seed, error in enumerate(deep)]
    assert kinds(runs) == [("plain", "degradation")]
    runs += [synthetic_run("plain", 8, seed, 4.0) for seed in range(3)]
    assert kinds(runs) == [("plain", "not enough evidence")]
    assert "the seeds vary too much" in sentence(runs)


def test_a_shallower_network_that_has_not_learnt_leaves_it_open():
    runs = three_depths("plain", [80.0, 1.0, 80.0])
    assert kinds(runs) == [("plain", "not enough evidence")]
    assert "but plain-8 has not learnt" in sentence(runs)


def test_depths_with_fewer_seeds_are_not_chosen():
    runs = [run for run in three_depths("plain", [20.0, 5.0, 20.0]) if (run.depth, run.seed) != (20, 2)]
    assert "above plain-8 on average over 3 seeds" in sentence(runs) or "below plain-8" in sentence(runs)


def test_effect_within_the_variation_is_not_enough():
    runs = grid("plain", [10.0, 20.0, 30.0], [15.0, 45.0, 25.0])
    assert kinds(runs) == [("plain", "not enough evidence")]
    assert sentence(runs).startswith("plain-56 ends 8.3 points")


def test_one_seed_is_not_enough_for_anything():
    for runs in (DEGRADED, VANISHED, EXPLODED, OVERFITTED):
        (kind,) = {finding.kind for finding in verdicts([run for run in runs if run.seed == 0])}
        assert kind == "not enough evidence"
    for runs in (DEGRADED, EXPLODED):
        assert "from one seed; use --seeds 3 or more" in sentence([run for run in runs if run.seed == 0])
    nan = synthetic_run("plain", 56, 0, None, status="diverged")
    calm = [run for run in DEGRADED if run.depth == 20]
    assert kinds([*calm, nan]) == [("plain", "not enough evidence")]
    again = synthetic_run("plain", 56, 1, 1.0)
    assert kinds([*calm, nan, again]) == [("plain", "unstable")]


def test_one_depth_is_not_enough():
    runs = [run for run in DEGRADED if run.depth == 56]
    assert kinds(runs) == [("plain", "not enough evidence")]
    assert "one depth only" in sentence(runs)


def test_arms_of_one_depth_lack_one_thing_together():
    runs = [synthetic_run(arm, 20, seed, 1.0 + seed) for arm in ("plain", "A", "C") for seed in range(3)]
    found = verdicts(runs)
    assert len(found) == 3
    (merged,) = without_repetition(found)
    assert merged.arm == "plain, A, C"
    grid = added_grid(merged.command)
    assert (grid.arms, grid.depths, grid.num_seeds) == (("plain", "A", "C"), (20, 56), 3)
    assert without_repetition(verdicts(DEGRADED)) == verdicts(DEGRADED)


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


def test_killed_and_deepened_runs_are_no_evidence():
    killed = [
        synthetic_run("plain", 56, 3, None, status="failed"),
        synthetic_run("plain", 20, 3, None, status="failed"),
    ]
    config = dataclasses.replace(DEGRADED[-1].config, weights="plain20.safetensors")
    deepened = dataclasses.replace(synthetic_run("plain", 56, 3, 0.0), config=config)
    assert verdicts([*DEGRADED, *killed, deepened]) == verdicts(DEGRADED)
    assert verdicts(killed) == verdicts([]) == []


def test_arms_and_data_sets_have_separate_verdicts():
    other = [
        dataclasses.replace(run, config=synthetic_run("residual", run.depth, run.seed, 1.0, data="cifar10").config)
        for run in grid("residual", [0.1, 0.2, 0.0], [0.2, 0.1, 0.1])
    ]
    assert [(f.data, f.arm, f.kind) for f in verdicts([*other, *DEGRADED])] == [
        ("cifar10", "residual", "healthy"),
        ("digits", "plain", "degradation"),
    ]


@pytest.mark.parametrize(
    ("runs", "kind"), [(DEGRADED, "degradation"), (VANISHED, "vanishing"), (EXPLODED, "exploding")]
)
def test_shuffled_depths_do_not_give_the_verdict(runs, kind):
    """Assign the same six records to the two depths in every other way: no failing verdict may remain."""
    for shallow in itertools.combinations(range(6), 3):
        deep = [index for index in range(6) if index not in shallow]
        order = [0] * 6
        for label, record in enumerate([*shallow, *deep]):
            order[record] = label
        found = {finding.kind for finding in verdicts(relabelled(runs, order))}
        assert found == {kind} if shallow == (0, 1, 2) else not found & FAILS


def test_shuffled_numbers_of_images_do_not_give_overfitting():
    """The first six records are of 50 images; if their new labels still separate them, the verdict may remain."""
    few, deep = {0, 1, 2, 3, 4, 5}, {3, 4, 5, 9, 10, 11}
    rng = random.Random(0)
    for _ in range(300):
        order = rng.sample(range(12), 12)
        labels = {order[index] for index in few}
        found = {finding.kind for finding in verdicts(relabelled(OVERFITTED, order))}
        assert labels in (few, deep) or not found & FAILS
