"""Verdicts on synthetic runs with known effects, and on the same runs with shuffled labels."""

import dataclasses
import itertools
import random

import pytest

from helpers.synthetic_groups import (
    DEGRADED,
    EXPLODED,
    FALLING,
    FLAT,
    OVERFITTED,
    VANISHED,
    grid,
    kinds,
    sentence,
    three_depths,
    with_control,
    with_recipe,
)
from helpers.synthetic_runs import layer_stats, relabelled, synthetic_run
from resnetlab.study.verdicts.detectors import DETECTORS
from resnetlab.study.verdicts.rules import FAILING, RULES
from resnetlab.study.verdicts.verdict import verdicts

FAILS = {rule.kind for rule in FAILING} - {"unstable"}
"""Without `unstable`, which a run that ends in NaN gives under any label."""


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


@pytest.mark.parametrize("with_long_steps", [0, 1, 2])
def test_long_steps_are_not_the_cause_unless_every_deep_run_has_them(with_long_steps):
    """Layers that stall without a long step, and a control arm that trains."""
    long, control = with_control([1.2, 2.1, 1.4])
    model = long[-1].config.model
    stalled = tuple(layer_stats(model, step, grad_to_weight=[1e-9, 0.1, 0.1]) for step in (1, 100, 200, 300))
    runs = [
        dataclasses.replace(run, layer_stats=stalled) if run.depth == 56 and run.seed >= with_long_steps else run
        for run in long
    ]
    first = verdicts(runs + control)[0]
    assert (first.arm, first.kind, first.command) == ("plain", "not enough evidence", None)
    assert "(plain-capped) it trains, but not in every deep run did a step overwrite a layer" in first.sentence


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


def nan(arm, depth, seed, **options):
    return synthetic_run(arm, depth, seed, None, status="diverged", **options)


def without(runs, depth, seed):
    return [run for run in runs if (run.depth, run.seed) != (depth, seed)]


def test_a_run_that_ends_in_nan_concerns_the_networks_of_its_number_of_images():
    """Three shallow networks of fifty images, one of which ends in NaN, beside a study that degrades."""
    few = [synthetic_run("plain", 20, seed, 0.5, train_images=50) for seed in range(2)]
    found = verdicts([*DEGRADED, *few, nan("plain", 20, 2, train_images=50)])
    assert [verdict.kind for verdict in found] == ["degradation", "unstable"]
    assert "plain-20, 50 images: 1 of 3 runs end in NaN" in found[1].sentence
    assert "nothing is said about depth from this network" in found[1].sentence


def test_every_depth_counts_for_overfitting():
    """Residual networks of 20 and 110 layers overfit more with depth; one of 56 layers ended in NaN."""
    runs = [
        synthetic_run("residual", depth, seed, 0.1, test=unseen + seed / 10)
        for depth, unseen in ((20, 3.0), (56, 3.0), (110, 9.0))
        for seed in range(3)
    ]
    assert kinds(runs) == [("residual", "overfitting")]
    assert kinds([*without(runs, 56, 1), nan("residual", 56, 1)]) == [("residual", "unstable")]


@pytest.mark.parametrize("depth", [20, 56])
def test_every_seed_counts_for_overfitting_with_fewer_images(depth):
    runs = [run for run in OVERFITTED if run.train_images or (run.depth, run.seed) != (depth, 2)]
    assert kinds([*runs, nan("residual", depth, 2)]) == [("residual", "unstable")]


def test_a_seed_that_only_one_depth_has_counts():
    """The fourth seed of one depth ended in NaN; three seeds of both would give a verdict."""
    for runs in (DEGRADED, VANISHED, EXPLODED):
        assert "unstable" not in {kind for _, kind in kinds(runs)}
        for depth in (20, 56):
            assert kinds([*runs, nan("plain", depth, 3)]) == [("plain", "unstable")]


def test_another_verdict_explains_only_the_networks_that_fail_in_its_way():
    """The deep networks explode, or all of them diverge; a run of another depth ended in NaN on its own."""
    lone = [*(synthetic_run("plain", 44, seed, 1.0) for seed in range(2)), nan("plain", 44, 2)]
    both = verdicts([*EXPLODED, *lone])
    assert [verdict.kind for verdict in both] == ["exploding", "unstable"]
    assert "plain-44: 1 of 3 runs end in NaN" in both[1].sentence
    assert "plain-56" not in both[1].sentence
    too_high = [*(synthetic_run("plain", 20, seed, 1.0) for seed in range(3)), *(nan("plain", 56, n) for n in range(3))]
    assert kinds(too_high) == [("plain", "learning rate too high")]
    assert kinds([*too_high, *lone]) == [("plain", "learning rate too high"), ("plain", "unstable")]
    explained = [nan("plain", 44, seed, gradient=1e7) for seed in range(3)]
    assert kinds([*EXPLODED, *explained]) == [("plain", "exploding")]
    assert kinds([*too_high, *(nan("plain", 44, seed) for seed in range(3))]) == [("plain", "learning rate too high")]
    vanished = [*VANISHED, *lone]
    assert kinds(vanished) == [("plain", "unstable")]


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


def test_deeper_is_not_called_better_by_its_training_error_alone():
    runs = three_depths("residual", [9.0, 6.0, 3.0], unseen=[12.0, 10.0, 10.5])
    assert kinds(runs) == [("residual", "healthy")]
    assert "residual-56 ends 3.0 points of training error below residual-20 (the best of 2 " in sentence(runs)
    assert "The deeper networks fit their training set better; +0.5 points of error on unseen" in sentence(runs)
    assert sentence(runs).endswith("are no gain.")


@pytest.mark.parametrize(
    ("rises", "doubt"),
    [
        ((-1.5, -1.9, -1.2), "its 99 % interval, −3.5 to 0.5, holds zero."),  # by hand: mean −1.533, s 0.351, t 9.925
        ((-1.5, -1.9, 0.0), "its sign differs between seeds (− − 0)."),
        ((-1.5, -1.9, 0.1), "its sign differs between seeds (− − +)."),
    ],
)
def test_a_gain_that_is_not_clear_says_why(rises, doubt):
    """The first one's 95 % interval, which is printed, does not hold zero."""
    runs = [synthetic_run("residual", 20, seed, 9.0 + seed / 10, test=12.0) for seed in range(3)]
    runs += [synthetic_run("residual", 56, seed, 5.0, test=12.0 + rise) for seed, rise in enumerate(rises)]
    assert sentence(runs).endswith(f"are no clear gain: {doubt}")


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
