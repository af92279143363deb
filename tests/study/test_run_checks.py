"""One run judged by itself: made-up runs that show one symptom each, and the same just short of it."""

import dataclasses
import math

import pytest

from helpers.synthetic_runs import epoch, made, signal
from resnetlab.config import RunConfig
from resnetlab.study.rules import (
    DEAD_PCT,
    EXPLODED,
    FALLING_SHARE,
    FITTED_PCT,
    LEARNT_SHARE,
    LONG_STEP,
    LOSS_RISE,
    RULES,
    STILL,
    UNFINISHED_PCT,
    WIDE_GAP_POINTS,
)
from resnetlab.study.run_checks import has_learnt, has_sound_gradients, is_unstable, run_issues
from resnetlab.study.run_metrics import (
    chance_error_pct,
    dead_relus_pct,
    first_gradient,
    first_update,
    gap,
    late_fall,
    loss_rise,
    median_gradient,
    movement,
    residual_ratio,
    steepest_gradient,
    total_steps,
    train_error,
    unseen_error_pct,
)

LR, STEPS, MOMENTUM = 0.01, 400, 0.9
UNLEARNT = LEARNT_SHARE * 90 + 1
"""Training error, in %, of a network of ten classes that has not learnt."""
FLAT = (2.3,) * 8


def run(train: float | None = 0.5, **given):
    return made("plain", 20, 0, train, **given)


def heard(told, *signals):
    """The run with other signals, each the fields in which it differs from a sound one."""
    lines = [signal(told.config.model, **fields) for fields in signals]
    return dataclasses.replace(told, signals=tuple(lines))


def with_losses(*losses, told=None):
    """A run whose epochs have these running losses."""
    epochs = tuple(epoch(100 * number, list(some), 50.0) for number, some in enumerate(losses, start=1))
    return dataclasses.replace(told or run(), epochs=epochs)


def kinds(told):
    return [one.kind for one in run_issues(told)]


def falling(share):
    return (2.3, 2.0, 2.0, 2.0, 1.0, 1.0, 1 - share, 1 - share)


JUST = 1.01
MOVING = STILL * (1 - MOMENTUM) / STEPS / LR
"""Gradient over weights from which the median layer moves by `STILL`."""

CASES = {
    "nothing": (run(), []),
    "nothing, with losses that fall": (run(losses=falling(0.5)), []),
    "vanishing": (run(UNLEARNT, gradient=MOVING / JUST), ["vanishing"]),
    "vanishing, not quite": (run(UNLEARNT, gradient=MOVING * JUST), ["not learnt"]),
    "still, and yet it has learnt": (run(gradient=MOVING / JUST), []),
    "exploding": (run(UNLEARNT, gradient=EXPLODED), ["exploding"]),
    "exploding beyond numbers": (run(UNLEARNT, gradient=None), ["exploding"]),
    "steep, and yet it has learnt": (run(gradient=EXPLODED), []),
    "a long first step": (run(UNLEARNT, gradient=JUST * LONG_STEP / LR), ["learning rate too high"]),
    "a first step not quite as long": (run(UNLEARNT, gradient=LONG_STEP / LR / JUST), ["not learnt"]),
    "a loss that rises": (run(UNLEARNT, losses=(2.3, 2.3 * LOSS_RISE * JUST, *FLAT)), ["learning rate too high"]),
    "a loss that rises less": (run(UNLEARNT, losses=(2.3, 2.3 * LOSS_RISE / JUST, *FLAT)), ["not learnt"]),
    "a loss that rises, and yet": (run(losses=(2.3, 2.3 * LOSS_RISE * JUST, *FLAT)), []),
    "diverged": (run(None, status="diverged"), ["diverged", "learning rate too high"]),
    "diverged, steep": (run(None, status="diverged", gradient=None), ["diverged", "exploding"]),
    "diverged, unheard": (run(None, status="diverged", signals=False), ["diverged", "learning rate too high"]),
    "overfitting": (run(FITTED_PCT, test=FITTED_PCT + WIDE_GAP_POINTS), ["overfitting"]),
    "overfitting, not quite": (run(FITTED_PCT, test=FITTED_PCT + WIDE_GAP_POINTS - 0.1), []),
    "a wide gap, not fitted": (run(FITTED_PCT * JUST, test=FITTED_PCT + 2 * WIDE_GAP_POINTS), []),
    "under-trained": (run(UNFINISHED_PCT * JUST, losses=falling(FALLING_SHARE * JUST)), ["under-trained"]),
    "under-trained, not quite": (run(UNFINISHED_PCT * JUST, losses=falling(FALLING_SHARE / JUST)), []),
    "falling, and good enough": (run(UNFINISHED_PCT, losses=falling(0.5)), []),
    "not learnt, still falling": (run(80.0, losses=falling(0.5)), ["under-trained"]),
    "not learnt": (run(UNLEARNT, losses=FLAT), ["not learnt"]),
    "not learnt, unheard": (run(UNLEARNT, losses=FLAT, signals=False), ["not learnt"]),
    "learnt, just": (run(UNLEARNT - 2, losses=FLAT), []),
    "dead": (heard(run(), {}, {"step": 400, "dead_relu_pct": [DEAD_PCT] * 3}), ["dead ReLUs"]),
    "dead, not quite": (heard(run(), {}, {"step": 400, "dead_relu_pct": [DEAD_PCT - 1] * 3}), []),
    "dead at first only": (heard(run(), {"dead_relu_pct": [90.0] * 3}, {"step": 400}), []),
    "two at once": (heard(run(UNLEARNT), {"gradient": 0.0, "dead_relu_pct": [99.0] * 3}), ["vanishing", "dead ReLUs"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_symptom_and_what_falls_short_of_it(name):
    told, expected = CASES[name]
    assert kinds(told) == expected
    known = {rule.kind for rule in RULES} | {"dead ReLUs", "diverged", "not learnt"}
    assert set(expected) <= known


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (run(80.0, gradient=0.0001), "the median layer could move by 0.004 of its own length in the whole run"),
        (run(80.0, gradient=250.0), "the gradient of the median layer is 250 times its weights"),
        (run(80.0, gradient=None), "the gradient of the median layer is not finite times its weights"),
        (
            run(80.0, gradient=20.0),
            "the first step is 0.2 of the weights in the median layer and the running loss rise",
        ),
        (run(80.0, losses=(23.0, *FLAT)), "the running loss rises to 10 times the first"),
        (run(0.25, test=13.5), "the error on unseen images 13.2 points higher"),
        (
            run(20.0, losses=falling(0.3)),
            "the training error is 20.0 %, and the running loss fell by 30 % in the last q",
        ),
        (run(60.0, losses=FLAT), "the training error, 60.0 %, is more than half that of guessing (90.0 %)"),
        (
            heard(run(), {"dead_relu_pct": [100.0, None, 62.0]}),
            "81 % of a layer's channels, on average, are zero on every image",
        ),
    ],
    ids=str,
)
def test_the_sentence_has_the_numbers(told, words):
    (one,) = run_issues(told)
    assert words in one.sentence
    assert "\n" not in one.sentence


def test_a_diverged_run_says_what_the_record_says():
    told = run(None, status="diverged", signals=False)
    told = dataclasses.replace(told, result={"status": "diverged", "error": "the loss is nan at steps 2 to 11"})
    diverged, lr = run_issues(told)
    assert diverged.sentence == "the loss is nan at steps 2 to 11"
    assert lr.sentence == "it ended in NaN, and the network has not learnt"


def test_what_a_model_file_can_show():
    """No step is known, so nothing is said of movement or of updates; its errors are."""
    told = dataclasses.replace(
        run(), status="measured", epochs=(), result={"status": "measured", "train_error_pct": 80.0}
    )
    still, steep = (heard(told, {"step": 0, "lr": 0.0, "gradient": gradient}) for gradient in (0.0, 500.0))
    assert (kinds(still), kinds(steep)) == (["not learnt"], ["exploding"])
    assert (movement(still), first_update(still), has_sound_gradients(still), is_unstable(still)) == (
        None,
        0,
        None,
        False,
    )
    unknown = dataclasses.replace(still, result={"status": "measured"})
    assert (train_error(unknown), has_learnt(unknown), kinds(unknown)) == (None, False, [])
    assert not math.isnan(movement(heard(told, {"step": 0, "lr": 0.0, "gradient": None})) or 0)


def test_gradients_are_sound():
    assert has_sound_gradients(run()) is True
    assert has_sound_gradients(run(gradient=MOVING / JUST)) is False
    assert has_sound_gradients(run(gradient=EXPLODED)) is False
    assert has_sound_gradients(run(gradient=None)) is False
    assert has_sound_gradients(run(signals=False)) is None


def test_movement_is_the_farthest_the_median_layer_could_go():
    told = heard(
        run(),
        {"lr": 0.1, "grad_to_weight": [0.5, 0.02, 0.03]},
        {"lr": 0.05, "grad_to_weight": [0.01, 9.0, 0.07]},
        {"lr": 0.001, "grad_to_weight": [1.0, 1.0, 1.0]},
    )
    assert movement(told) == pytest.approx(0.05 * 0.07 * 400 / 0.1)
    assert (first_gradient(told), first_update(told)) == (0.03, pytest.approx(0.003))
    no_momentum = dataclasses.replace(RunConfig().recipe, momentum=0.0)
    told = dataclasses.replace(told, config=dataclasses.replace(told.config, recipe=no_momentum))
    assert movement(told) == pytest.approx(0.05 * 0.07 * 400)
    assert movement(heard(told, {}, {"gradient": None})) == math.inf
    assert (movement(run(signals=False)), first_gradient(run(signals=False)), first_update(run(signals=False))) == (
        None,
        None,
        None,
    )


def test_steps_are_those_that_the_record_tells():
    told = run()
    cut = dataclasses.replace(told, result={})
    assert [total_steps(one) for one in (told, cut)] == [400, 400]
    assert total_steps(dataclasses.replace(heard(cut, {"step": 7}, {"step": 21}), epochs=())) == 21
    assert total_steps(dataclasses.replace(heard(cut, {"step": 7}), epochs=(epoch(120, [1.0], 9.0),))) == 120
    assert total_steps(dataclasses.replace(cut, epochs=(), signals=())) == 0


def test_gradients_of_the_median_and_of_the_steepest_layer():
    model = run().config.model
    assert median_gradient(signal(model, grad_to_weight=[5.0, 1.0, 2.0])) == 2.0
    assert median_gradient(signal(model, grad_to_weight=[5.0, 1.0, 2.0, 3.0], grad_norm=[1.0] * 4)) == 2.5
    assert median_gradient(signal(model, grad_norm=[5.0, None, 2.0])) == math.inf
    assert median_gradient(signal(model, grad_to_weight=[5.0, None, 2.0])) == 3.5  # of weights that are all zero
    told = heard(run(), {"grad_to_weight": [1.0, 7.0, 2.0]}, {"gradient": 99.0})
    assert steepest_gradient(told) == 7.0
    assert steepest_gradient(heard(run(), {"grad_norm": [1.0, None, 2.0]})) == math.inf
    assert steepest_gradient(run(signals=False)) is None


def test_the_late_fall_is_from_the_third_quarter_to_the_last():
    assert late_fall(with_losses([9.0, 9.0, 9.0, 9.0, 4.0, 2.0, 2.0, 1.0])) == pytest.approx(0.5)
    assert late_fall(with_losses([9.0, 9.0, 9.0], [9.0, 4.0, 2.0], [2.0, 1.0])) == pytest.approx(0.5)
    assert late_fall(with_losses([9.0, None, 9.0, 9.0, 9.0, 4.0, 2.0, 2.0, None, 1.0])) == pytest.approx(0.5)
    assert late_fall(with_losses([9.0, 9.0, 9.0, 8.0, 4.0])) == pytest.approx(0.5)
    assert late_fall(with_losses([1.0, 1.0, 1.0, 2.0])) == pytest.approx(-1.0)
    assert late_fall(with_losses([9.0, 8.0, 7.0])) is None
    assert late_fall(with_losses([])) is None


def test_a_loss_of_nothing_does_not_fall():
    assert kinds(run(0.0, losses=(2.3, 0.1, *[0.0] * 6))) == []


def test_a_run_that_was_cut_short_is_not_vanishing():
    for status in ("unfinished", "failed"):
        cut = dataclasses.replace(run(None, status=status), result={}, epochs=())
        assert "vanishing" not in kinds(heard(cut, {"step": 1, "gradient": 0.05}))


def test_the_loss_rises_above_that_of_the_first_step():
    assert loss_rise(with_losses([2.0, 4.6, None], [1.0, 6.9])) == pytest.approx(6.9 / 2.3)
    assert loss_rise(with_losses([2.0, 1.0])) == pytest.approx(2.0 / 2.3)
    assert loss_rise(with_losses([])) is None
    assert loss_rise(run(signals=False)) is None
    assert loss_rise(heard(run(), {"loss": None})) is None


def test_the_gap_is_to_the_test_error_or_without_one_to_the_validation_error():
    told = run()
    for result, unseen, expected in [
        ({"train_error_pct": 1.0, "val_error_pct": 5.0, "test_error_pct": 8.0}, 8.0, 7.0),
        ({"train_error_pct": 1.0, "val_error_pct": 5.0, "test_error_pct": None}, 5.0, 4.0),
        ({"train_error_pct": 1.0, "val_error_pct": 5.0}, 5.0, 4.0),
        ({"train_error_pct": 1.0, "val_error_pct": 5.0, "test_error_pct": 0.0}, 0.0, -1.0),
        ({"train_error_pct": 1.0}, None, None),
        ({"test_error_pct": 8.0}, 8.0, None),
    ]:
        other = dataclasses.replace(told, result=result)
        assert (unseen_error_pct(other), gap(other)) == (unseen, expected)
    assert kinds(dataclasses.replace(told, result={"train_error_pct": 0.5, "val_error_pct": 20.0})) == ["overfitting"]


def test_only_a_run_that_ended_has_a_training_error():
    result = {"train_error_pct": 3.0}
    told = {
        status: dataclasses.replace(run(), status=status, result=result)
        for status in ("done", "measured", "diverged", "failed", "unfinished")
    }
    assert {status: train_error(one) for status, one in told.items()} == {
        "done": 3.0,
        "measured": 3.0,
        "diverged": None,
        "failed": None,
        "unfinished": None,
    }


def test_guessing_follows_the_number_of_classes():
    told = run(30.0, losses=FLAT)
    two = dataclasses.replace(told, start={"data": {"classes": ["cat", "dog"]}})
    assert [chance_error_pct(one) for one in (told, two, dataclasses.replace(told, start={}))] == [90, 50, 90]
    assert (has_learnt(told), has_learnt(two)) == (True, False)
    assert (kinds(told), kinds(two)) == ([], ["not learnt"])


def test_means_are_over_what_is_there_at_the_last_sample():
    told = heard(run(), {}, {"dead_relu_pct": [10.0, None, 30.0], "residual_ratio": [0.5, 1.5, None]})
    assert (dead_relus_pct(told), residual_ratio(told)) == (20.0, 1.0)
    assert residual_ratio(heard(run(), {"residual_ratio": [None, None]})) is None
    assert (dead_relus_pct(run(signals=False)), residual_ratio(run(signals=False))) == (None, None)
