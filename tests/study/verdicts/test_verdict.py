"""Verdicts on synthetic runs with known effects, and on the same runs with shuffled labels."""

import dataclasses
import itertools
import random

import pytest

from helpers.synthetic_groups import (
    DEGRADED,
    EXPLODED,
    FALLING,
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


def test_gradients_that_explode_later_are_not_blamed_on_the_learning_rate():
    runs = [synthetic_run("plain", 20, seed, 1.0) for seed in range(3)]
    for seed in range(3):
        run = synthetic_run("plain", 56, seed, None, status="diverged")
        later = layer_stats(run.config.model, 17, 1e9)
        runs.append(dataclasses.replace(run, layer_stats=(run.layer_stats[0], later)))
    assert kinds(runs) == [("plain", "unstable")]


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
