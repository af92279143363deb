"""Verdicts on synthetic runs of which some end in NaN."""

import pytest

from helpers.synthetic_groups import (
    DEGRADED,
    EXPLODED,
    OVERFITTED,
    VANISHED,
    kinds,
    sentence,
)
from helpers.synthetic_runs import synthetic_run
from resnetlab.study.verdicts.verdict import verdicts


def nan(arm, depth, seed, **options):
    return synthetic_run(arm, depth, seed, None, status="diverged", **options)


def without(runs, depth, seed):
    return [run for run in runs if (run.depth, run.seed) != (depth, seed)]


@pytest.mark.parametrize("num_diverged", [1, 2, 3])
def test_runs_that_end_in_nan_are_the_worst_result(num_diverged):
    """Their seeds are not dropped: neither healthy nor degradation is said of the rest."""
    for good in ([0.5, 0.6, 0.4, 0.5], [70.0, 71.0, 72.0, 70.5]):
        runs = [synthetic_run("residual", 20, seed, 0.5) for seed in range(4)]
        runs += [synthetic_run("residual", 56, seed, error) for seed, error in enumerate(good)][num_diverged:]
        runs += [synthetic_run("residual", 56, seed, None, status="diverged") for seed in range(num_diverged)]
        assert kinds(runs) == [("residual", "unstable")]
        assert f"residual-56: {num_diverged} of 4 runs end in NaN" in sentence(runs)


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
