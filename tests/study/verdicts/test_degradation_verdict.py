"""The verdict "degradation" on synthetic runs: its evidence, its exclusions and the control arm."""

import dataclasses

import pytest

from helpers.synthetic_groups import (
    DEGRADED,
    FALLING,
    FLAT,
    grid,
    kinds,
    sentence,
    three_depths,
    with_control,
)
from helpers.synthetic_runs import layer_stats, synthetic_run
from resnetlab.study.verdicts.verdict import verdicts


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


def test_under_trained_vetoes_degradation():
    runs = [
        synthetic_run("plain", depth, seed, error + seed, losses=FALLING)
        for depth, error in ((20, 20.0), (56, 40.0))
        for seed in range(3)
    ]
    assert kinds(runs) == [("plain", "under-trained")]


def test_effect_within_the_variation_is_not_enough():
    runs = grid("plain", [10.0, 20.0, 30.0], [15.0, 45.0, 25.0])
    assert kinds(runs) == [("plain", "not enough evidence")]
    assert sentence(runs).startswith("plain-56 ends 8.3 points")


def test_depths_between_the_end_depths_count():
    runs = [
        synthetic_run("residual", depth, seed, error + seed / 10)
        for depth, error in ((20, 1.0), (56, 80.0), (110, 1.0))
        for seed in range(3)
    ]
    assert kinds(runs) == [("residual", "not enough evidence")]
    assert "residual-56 ends 79.0 points of training error above residual-20" in sentence(runs)


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
