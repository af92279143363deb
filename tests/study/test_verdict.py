"""Sentences follow the numbers: made-up runs with known effects, and the same runs with their labels shuffled."""

import itertools
from pathlib import Path

import pytest

from resnetlab.config import DataConfig, RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.study.results import Run
from resnetlab.study.spread import spread
from resnetlab.study.verdict import depth_effects, first_step_at


def made(arm, depth, seed, train, status="done"):
    name = f"{'plain' if arm == 'plain' else 'resnet'}{depth}"
    config = RunConfig(model_config(name), DataConfig("digits"), seed=seed)
    result = {"status": status, "train_error_pct": train, "test_error_pct": train + 1}
    return Run(Path(f"{arm}-{depth}-{seed}"), config, status, {}, (), result)


def grid(arm, shallow, deep):
    return [made(arm, d, s, e) for d, errors in ((20, shallow), (56, deep)) for s, e in enumerate(errors)]


def test_degradation():
    (effect,) = depth_effects(grid("plain", [1.0, 2.0, 1.5], [70.0, 72.0, 75.0]))
    assert effect.verdict == "degradation"
    assert effect.train_points == {0: 69.0, 1: 70.0, 2: 73.5}
    assert effect.test_points == effect.train_points
    assert effect.signs == "+ + +"
    assert effect.interval == pytest.approx((70.8333 - 5.866, 70.8333 + 5.866), abs=0.01)  # by hand: t 4.303, s 2.3629
    assert effect.sentence.startswith(
        "Degradation is seen: plain-56 ends 70.8 points of training error above plain-20 on average over 3 seeds"
    )


def test_no_degradation():
    (effect,) = depth_effects(grid("residual", [0.1, 0.2, 0.0], [0.2, 0.1, 0.1]))
    assert effect.verdict == "no degradation"
    assert "2 points or more are ruled out" in effect.sentence


def test_deeper_may_be_better():
    (effect,) = depth_effects(grid("residual", [9.0, 9.5, 9.2], [5.0, 5.1, 5.2]))
    assert effect.verdict == "no degradation"
    assert "4.1 points of training error below residual-20" in effect.sentence


def test_an_effect_inside_the_spread_is_not_enough():
    (effect,) = depth_effects(grid("plain", [10.0, 20.0, 30.0], [15.0, 45.0, 25.0]))
    assert effect.verdict == "not enough evidence"
    assert effect.sentence.startswith("Not enough evidence: plain-56 ends 8.3 points")


def test_one_seed_is_not_enough():
    (effect,) = depth_effects(grid("plain", [1.0], [80.0]))
    assert (effect.verdict, effect.interval) == ("not enough evidence", None)
    assert "from one seed: not enough evidence for a claim; use --seeds 3 or more" in effect.sentence


def test_shuffled_labels_do_not_give_the_same_verdict():
    """Deal the same six errors to the two depths in every other way: degradation must not be seen in any of them."""
    errors = [1.0, 2.0, 1.5, 70.0, 72.0, 75.0]
    for shallow in itertools.combinations(range(6), 3):
        deep = [i for i in range(6) if i not in shallow]
        (effect,) = depth_effects(grid("plain", [errors[i] for i in shallow], [errors[i] for i in deep]))
        assert (effect.verdict == "degradation") == (shallow == (0, 1, 2))


def test_only_seeds_that_both_depths_have_are_compared():
    runs = [
        *grid("plain", [1.0, 2.0], [50.0, 60.0])[:-1],
        made("plain", 56, 2, 5.0),
        made("plain", 56, 1, 9.0, "failed"),
    ]
    (effect,) = depth_effects(runs)
    assert effect.train_points == {0: 49.0}


def test_nothing_to_compare():
    assert depth_effects(grid("plain", [1.0], [])) == []
    assert depth_effects([]) == []


def test_spread():
    assert spread([1.0, None, 3.0]) == spread([3.0, 1.0])
    assert str(spread([1.0, 3.0])) == "2.00 ± 1.41"
    assert str(spread([2.0])) == "2.00"
    assert spread([None]) is None


def test_first_step_at():
    epochs = (
        {"step": 4, "val_error_pct": 9.0, "curve": {"step": [2, 4], "train_error_pct": [80.0, 40.0]}},
        {"step": 8, "val_error_pct": 9.0, "curve": {"step": [6, 8], "train_error_pct": [20.0, 30.0]}},
    )
    run = made("plain", 20, 0, 1.0)
    run = Run(run.directory, run.config, "done", {}, epochs, run.result)
    assert [first_step_at(run, pct) for pct in (90, 50, 20, 19)] == [2, 4, 6, None]
