"""Checks of single runs: synthetic runs with one issue each, and runs just below the threshold."""

import dataclasses
import math

import pytest

from helpers.synthetic_runs import epoch, layer_stats, synthetic_run
from resnetlab.config import RunConfig
from resnetlab.study.run_metrics import (
    dead_relus_pct,
    first_gradient,
    first_update,
    generalisation_gap,
    guessing_error_pct,
    loss_rise,
    median_gradient,
    movement,
    residual_ratio,
    steepest_gradient,
    total_steps,
    train_error,
    unseen_error,
)
from resnetlab.study.verdicts.rules import (
    DEAD_RELU_PCT,
    EXPLODING_GRADIENT,
    FALLING_SHARE,
    FITTED_PCT,
    LARGE_UPDATE,
    LEARNT_SHARE,
    LOSS_RISE,
    MIN_MOVEMENT,
    RULES,
    UNDER_TRAINED_PCT,
    WIDE_GAP_POINTS,
)
from resnetlab.study.verdicts.run_checks import has_learnt, has_sound_gradients, is_unstable, run_issues

LR, STEPS, MOMENTUM = 0.01, 400, 0.9
UNLEARNT = LEARNT_SHARE * 90 + 1
"""Training error, in %, of a network of ten classes that has not learnt."""
FLAT = (2.3,) * 8


def run(train: float | None = 0.5, **options):
    return synthetic_run("plain", 20, 0, train, **options)


def with_stats(base, *changes):
    """Return the run with other layer stats, each given by the fields in which it differs from a sound sample."""
    samples = [layer_stats(base.config.model, **fields) for fields in changes]
    return dataclasses.replace(base, layer_stats=tuple(samples))


def with_losses(*losses):
    """Return a run whose epochs have these running losses."""
    epochs = tuple(epoch(100 * number, list(values), 50.0) for number, values in enumerate(losses, start=1))
    return dataclasses.replace(run(), epochs=epochs)


def kinds(base):
    return [issue.kind for issue in run_issues(base)]


def falling(share):
    return (2.3, 2.0, 2.0, 2.0, 1.0, 1.0, 1 - share, 1 - share)


MARGIN = 1.01
"""Factor that puts a value just above or below a threshold."""
MOVING = MIN_MOVEMENT * (1 - MOMENTUM) / STEPS / LR
"""Gradient over weights from which the median layer moves by `MIN_MOVEMENT`."""

CASES = {
    "nothing": (run(), []),
    "nothing, with losses that fall": (run(losses=falling(0.5)), []),
    "vanishing": (run(UNLEARNT, gradient=MOVING / MARGIN), ["vanishing"]),
    "vanishing, not quite": (run(UNLEARNT, gradient=MOVING * MARGIN), ["not learnt"]),
    "no movement, but learnt": (run(gradient=MOVING / MARGIN), []),
    "exploding": (run(UNLEARNT, gradient=EXPLODING_GRADIENT), ["exploding"]),
    "exploding, not finite": (run(UNLEARNT, gradient=None), ["exploding"]),
    "steep, but learnt": (run(gradient=EXPLODING_GRADIENT), []),
    "a long first step": (run(UNLEARNT, gradient=MARGIN * LARGE_UPDATE / LR), ["learning rate too high"]),
    "a first step not quite as long": (run(UNLEARNT, gradient=LARGE_UPDATE / LR / MARGIN), ["not learnt"]),
    "a loss that rises": (run(UNLEARNT, losses=(2.3, 2.3 * LOSS_RISE * MARGIN, *FLAT)), ["learning rate too high"]),
    "a loss that rises less": (run(UNLEARNT, losses=(2.3, 2.3 * LOSS_RISE / MARGIN, *FLAT)), ["not learnt"]),
    "a loss that rises, but learnt": (run(losses=(2.3, 2.3 * LOSS_RISE * MARGIN, *FLAT)), []),
    "diverged": (run(None, status="diverged"), ["diverged", "learning rate too high"]),
    "diverged, steep": (run(None, status="diverged", gradient=None), ["diverged", "exploding"]),
    "diverged, no layer stats": (
        run(None, status="diverged", has_layer_stats=False),
        ["diverged", "learning rate too high"],
    ),
    "overfitting": (run(FITTED_PCT, test=FITTED_PCT + WIDE_GAP_POINTS), ["overfitting"]),
    "overfitting, not quite": (run(FITTED_PCT, test=FITTED_PCT + WIDE_GAP_POINTS - 0.1), []),
    "a wide gap, not fitted": (run(FITTED_PCT * MARGIN, test=FITTED_PCT + 2 * WIDE_GAP_POINTS), []),
    "under-trained": (run(UNDER_TRAINED_PCT * MARGIN, losses=falling(FALLING_SHARE * MARGIN)), ["under-trained"]),
    "under-trained, not quite": (run(UNDER_TRAINED_PCT * MARGIN, losses=falling(FALLING_SHARE / MARGIN)), []),
    "falling, but low error": (run(UNDER_TRAINED_PCT, losses=falling(0.5)), []),
    "not learnt, still falling": (run(80.0, losses=falling(0.5)), ["under-trained"]),
    "not learnt": (run(UNLEARNT, losses=FLAT), ["not learnt"]),
    "not learnt, no layer stats": (run(UNLEARNT, losses=FLAT, has_layer_stats=False), ["not learnt"]),
    "learnt, just": (run(UNLEARNT - 2, losses=FLAT), []),
    "dead": (with_stats(run(), {}, {"step": 400, "dead_relu_pct": [DEAD_RELU_PCT] * 3}), ["dead ReLUs"]),
    "dead, not quite": (with_stats(run(), {}, {"step": 400, "dead_relu_pct": [DEAD_RELU_PCT - 1] * 3}), []),
    "dead in the first sample only": (with_stats(run(), {"dead_relu_pct": [90.0] * 3}, {"step": 400}), []),
    "two issues": (
        with_stats(run(UNLEARNT), {"gradient": 0.0, "dead_relu_pct": [99.0] * 3}),
        ["vanishing", "dead ReLUs"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_issue_and_run_below_the_threshold(name):
    base, expected = CASES[name]
    assert kinds(base) == expected
    known = {rule.kind for rule in RULES} | {"dead ReLUs", "diverged", "not learnt"}
    assert set(expected) <= known


@pytest.mark.parametrize(
    ("base", "text"),
    [
        (run(80.0, gradient=0.0001), "3 of 3 layers hardly moved for a quarter of the run or longer"),
        (run(80.0, gradient=250.0), "the gradient of the median layer is 250 times its weights"),
        (run(80.0, gradient=None), "the gradient of the median layer is not finite times its weights"),
        (
            run(80.0, gradient=20.0),
            "the first step is 0.2 of the weights in the median layer and the running loss rise",
        ),
        (run(80.0, losses=(23.0, *FLAT)), "the running loss rises to 10 times the first"),
        (run(0.25, test=13.5), "the error on unseen images is 13.2 points higher"),
        (
            run(20.0, losses=falling(0.3)),
            "the training error is 20.0 %, and before the learning rate was lowered the running loss still fell, by 30",
        ),
        (run(60.0, losses=FLAT), "the training error, 60.0 %, is more than half that of guessing (90.0 %)"),
        (
            with_stats(run(), {"dead_relu_pct": [100.0, None, 62.0]}),
            "81 % of a layer's channels, on average, are zero on every image",
        ),
    ],
    ids=str,
)
def test_sentence_has_the_numbers(base, text):
    (issue,) = run_issues(base)
    assert text in issue.sentence
    assert "\n" not in issue.sentence


def test_diverged_run_has_the_error_of_its_record():
    base = run(None, status="diverged", has_layer_stats=False)
    base = dataclasses.replace(base, result={"status": "diverged", "error": "the loss is nan at steps 2 to 11"})
    diverged, lr = run_issues(base)
    assert diverged.sentence == "the loss is nan at steps 2 to 11"
    assert lr.sentence == "it ended in NaN, and the network has not learnt"


def test_issues_of_a_model_file():
    """Without steps, movement and updates are unknown; errors are known."""
    base = dataclasses.replace(
        run(), status="measured", epochs=(), result={"status": "measured", "train_error_pct": 80.0}
    )
    still, steep = (with_stats(base, {"step": 0, "lr": 0.0, "gradient": gradient}) for gradient in (0.0, 500.0))
    assert (kinds(still), kinds(steep)) == (["not learnt"], ["exploding"])
    assert (movement(still), first_update(still), has_sound_gradients(still), is_unstable(still)) == (
        None,
        0,
        None,
        False,
    )
    unknown = dataclasses.replace(still, result={"status": "measured"})
    assert (train_error(unknown), has_learnt(unknown), kinds(unknown)) == (None, False, [])
    assert not math.isnan(movement(with_stats(base, {"step": 0, "lr": 0.0, "gradient": None})) or 0)


def test_sound_gradients():
    assert has_sound_gradients(run()) is True
    assert has_sound_gradients(run(gradient=MOVING / MARGIN)) is False
    assert has_sound_gradients(run(gradient=EXPLODING_GRADIENT)) is False
    assert has_sound_gradients(run(gradient=None)) is False
    assert has_sound_gradients(run(has_layer_stats=False)) is None


def test_movement_is_an_upper_bound():
    base = with_stats(
        run(),
        {"lr": 0.1, "grad_to_weight": [0.5, 0.02, 0.03]},
        {"lr": 0.05, "grad_to_weight": [0.01, 9.0, 0.07]},
        {"lr": 0.001, "grad_to_weight": [1.0, 1.0, 1.0]},
    )
    assert movement(base) == pytest.approx(0.05 * 0.07 * 400 / 0.1)
    assert (first_gradient(base), first_update(base)) == (0.03, pytest.approx(0.003))
    no_momentum = dataclasses.replace(RunConfig().recipe, momentum=0.0)
    base = dataclasses.replace(base, config=dataclasses.replace(base.config, recipe=no_momentum))
    assert movement(base) == pytest.approx(0.05 * 0.07 * 400)
    assert movement(with_stats(base, {}, {"gradient": None})) == math.inf
    assert (
        movement(run(has_layer_stats=False)),
        first_gradient(run(has_layer_stats=False)),
        first_update(run(has_layer_stats=False)),
    ) == (
        None,
        None,
        None,
    )


def test_total_steps_come_from_the_record():
    base = run()
    cut = dataclasses.replace(base, result={})
    assert [total_steps(each) for each in (base, cut)] == [400, 400]
    assert total_steps(dataclasses.replace(with_stats(cut, {"step": 7}, {"step": 21}), epochs=())) == 21
    assert total_steps(dataclasses.replace(with_stats(cut, {"step": 7}), epochs=(epoch(120, [1.0], 9.0),))) == 120
    assert total_steps(dataclasses.replace(cut, epochs=(), layer_stats=())) == 0


def test_median_and_steepest_gradient():
    model = run().config.model
    assert median_gradient(layer_stats(model, grad_to_weight=[5.0, 1.0, 2.0])) == 2.0
    assert median_gradient(layer_stats(model, grad_to_weight=[5.0, 1.0, 2.0, 3.0], grad_norm=[1.0] * 4)) == 2.5
    assert median_gradient(layer_stats(model, grad_norm=[5.0, None, 2.0])) == math.inf
    assert (
        median_gradient(layer_stats(model, grad_to_weight=[5.0, None, 2.0])) == 3.5
    )  # the weights of one layer are all zero
    base = with_stats(run(), {"grad_to_weight": [1.0, 7.0, 2.0]}, {"gradient": 99.0})
    assert steepest_gradient(base) == 7.0
    assert steepest_gradient(with_stats(run(), {"grad_norm": [1.0, None, 2.0]})) == math.inf
    assert steepest_gradient(run(has_layer_stats=False)) is None


def test_zero_loss_does_not_fall():
    assert kinds(run(0.0, losses=(2.3, 0.1, *[0.0] * 6))) == []


def test_unfinished_run_is_not_vanishing():
    for status in ("unfinished", "failed"):
        cut = dataclasses.replace(run(None, status=status), result={}, epochs=())
        assert "vanishing" not in kinds(with_stats(cut, {"step": 1, "gradient": 0.05}))


def test_loss_rise_is_relative_to_the_first_step():
    assert loss_rise(with_losses([2.0, 4.6, None], [1.0, 6.9])) == pytest.approx(6.9 / 2.3)
    assert loss_rise(with_losses([2.0, 1.0])) == pytest.approx(2.0 / 2.3)
    assert loss_rise(with_losses([])) is None
    assert loss_rise(run(has_layer_stats=False)) is None
    assert loss_rise(with_stats(run(), {"loss": None})) is None


def test_generalisation_gap_uses_the_test_error_or_the_validation_error():
    base = run()
    for result, unseen, expected in [
        ({"train_error_pct": 1.0, "val_error_pct": 5.0, "test_error_pct": 8.0}, 8.0, 7.0),
        ({"train_error_pct": 1.0, "val_error_pct": 5.0, "test_error_pct": None}, 5.0, 4.0),
        ({"train_error_pct": 1.0, "val_error_pct": 5.0}, 5.0, 4.0),
        ({"train_error_pct": 1.0, "val_error_pct": 5.0, "test_error_pct": 0.0}, 0.0, -1.0),
        ({"train_error_pct": 1.0}, None, None),
        ({"test_error_pct": 8.0}, 8.0, None),
    ]:
        other = dataclasses.replace(base, result=result)
        assert (unseen_error(other), generalisation_gap(other)) == (unseen, expected)
    assert kinds(dataclasses.replace(base, result={"train_error_pct": 0.5, "val_error_pct": 20.0})) == ["overfitting"]


def test_only_a_finished_run_has_a_training_error():
    result = {"train_error_pct": 3.0}
    runs = {
        status: dataclasses.replace(run(), status=status, result=result)
        for status in ("done", "measured", "diverged", "failed", "unfinished")
    }
    assert {status: train_error(each) for status, each in runs.items()} == {
        "done": 3.0,
        "measured": 3.0,
        "diverged": None,
        "failed": None,
        "unfinished": None,
    }


def test_guessing_error_depends_on_the_number_of_classes():
    base = run(30.0, losses=FLAT)
    two = dataclasses.replace(base, start={"data": {"classes": ["cat", "dog"]}})
    assert [guessing_error_pct(each) for each in (base, two, dataclasses.replace(base, start={}))] == [90, 50, 90]
    assert (has_learnt(base), has_learnt(two)) == (True, False)
    assert (kinds(base), kinds(two)) == ([], ["not learnt"])


def test_means_are_over_known_values_of_the_last_sample():
    base = with_stats(run(), {}, {"dead_relu_pct": [10.0, None, 30.0], "residual_ratio": [0.5, 1.5, None]})
    assert (dead_relus_pct(base), residual_ratio(base)) == (20.0, 1.0)
    assert residual_ratio(with_stats(run(), {"residual_ratio": [None, None]})) is None
    assert (dead_relus_pct(run(has_layer_stats=False)), residual_ratio(run(has_layer_stats=False))) == (None, None)
