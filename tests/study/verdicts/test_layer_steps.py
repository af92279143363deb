"""Steps of the layers: overwritten and stalled layers, over layers and over time."""

import dataclasses
import math

import pytest

from helpers.synthetic_runs import layer_stats, synthetic_run
from resnetlab.study.run_metrics import first_update, movement
from resnetlab.study.verdicts.layer_steps import layer_steps
from resnetlab.study.verdicts.run_checks import (
    has_exploding_gradients,
    has_sound_gradients,
    has_vanishing_gradients,
    run_issues,
)

NUM_SAMPLES = 16


def with_gradients(*samples, status="done", losses=None, **recipe):
    """Return a run of 400 steps whose samples have these ratios, one for each of three layers; `None`: not finite."""
    base = synthetic_run("plain", 20, 0, 80.0 if status == "done" else None, status=status)
    stats = []
    for number, ratios in enumerate(samples):
        fields = {"grad_norm": list(ratios), "grad_to_weight": list(ratios), "step": 1 + 25 * number}
        fields["loss"] = 2.3 if losses is None else losses[number]
        stats.append(layer_stats(base.config.model, **fields))
    weights = "a.safetensors" if {"frozen_epochs", "layer_decay"} & recipe.keys() else None
    config = dataclasses.replace(base.config, recipe=dataclasses.replace(base.config.recipe, **recipe), weights=weights)
    return dataclasses.replace(base, config=config, layer_stats=tuple(stats))


SOUND = (0.1, 0.2, 0.3)


def test_sound_in_every_layer():
    steps = layer_steps(with_gradients(*[SOUND] * NUM_SAMPLES))
    assert steps is not None
    assert (steps.overwritten, steps.stalled, steps.is_sound) == ((), (), True)
    assert (steps.longest, steps.longest_layer, steps.longest_step) == (0.003, "layer1.0.conv2", 1)


def test_one_layer_that_a_step_overwrites():
    """The median layer looks sound, and so does every later sample."""
    run = with_gradients((1700.0, 0.2, 0.3), *[SOUND] * (NUM_SAMPLES - 1))
    steps = layer_steps(run)
    assert steps is not None
    assert (steps.overwritten, steps.longest, steps.is_sound) == (("conv1",), 17.0, False)
    assert has_sound_gradients(run) is False
    assert not has_exploding_gradients(run)


def test_a_layer_that_is_overwritten_later():
    run = with_gradients(*[SOUND] * 8, (0.1, 1e8, 0.3), *[SOUND] * 7)
    steps = layer_steps(run)
    assert steps is not None
    assert (steps.overwritten, steps.longest_step) == (("layer1.0.conv1",), 201)


def test_a_gradient_that_is_not_finite_overwrites():
    steps = layer_steps(with_gradients(SOUND, (0.1, None, 0.2)))
    assert steps is not None
    assert (steps.overwritten, steps.longest) == (("layer1.0.conv1",), math.inf)


def test_gradients_that_vanish_after_the_first_sample():
    run = with_gradients(SOUND, *[(1e-12,) * 3] * (NUM_SAMPLES - 1))
    steps = layer_steps(run)
    assert steps is not None
    assert len(steps.stalled) == 3
    assert has_vanishing_gradients(run)
    assert has_sound_gradients(run) is False


def test_a_quarter_of_the_run_is_enough_wherever_it_lies():
    for start in (0, 5, 12):
        samples = [SOUND] * NUM_SAMPLES
        samples[start : start + 4] = [(0.1, 1e-12, 0.3)] * 4
        steps = layer_steps(with_gradients(*samples))
        assert steps is not None
        assert steps.stalled == ("layer1.0.conv1",)
        samples[start] = SOUND
        steps = layer_steps(with_gradients(*samples))
        assert steps is not None
        assert steps.stalled == ()


def test_small_gradients_of_a_fitted_training_set_are_sound():
    losses = [2.3, 1.0, *[0.001] * (NUM_SAMPLES - 2)]
    run = with_gradients(SOUND, SOUND, *[(1e-12,) * 3] * (NUM_SAMPLES - 2), losses=losses)
    assert has_sound_gradients(run) is True


def test_layers_that_stall_after_a_step_overwrote_them_do_not_vanish():
    run = with_gradients((1e6,) * 3, *[(1e-12,) * 3] * (NUM_SAMPLES - 1))
    assert not has_vanishing_gradients(run)
    assert has_exploding_gradients(run)


def test_a_limit_on_the_steps_is_taken_into_account():
    run = with_gradients((1700.0, 0.2, 0.3), *[SOUND] * (NUM_SAMPLES - 1), max_update=0.05)
    steps = layer_steps(run)
    assert steps is not None
    assert (steps.overwritten, steps.longest) == ((), 0.05)
    assert has_sound_gradients(run) is True


def test_layers_of_zeros_are_left_out():
    base = with_gradients(*[SOUND] * 4)
    stats = tuple({**sample, "grad_to_weight": [0.1, None, 0.3]} for sample in base.layer_stats)
    steps = layer_steps(dataclasses.replace(base, layer_stats=stats))
    assert steps is not None
    assert (steps.overwritten, steps.stalled) == ((), ())


@pytest.mark.parametrize(
    "recipe",
    [
        {"optimizer": "adamw"},
        {"optimizer": "muon"},
        {"optimizer": "lamb"},
        {"clip_grad_norm": 1.0},
        {"layer_decay": 0.5},
        {"frozen_epochs": 1},
    ],
    ids=str,
)
def test_gradients_tell_the_steps_of_sgd_alone(recipe):
    for samples in ([(1700.0, 0.2, 0.3)] + [SOUND] * 15, [(1e-12,) * 3] * 16, [SOUND] * 16):
        run = with_gradients(*samples, **recipe)
        assert (layer_steps(run), movement(run), first_update(run)) == (None, None, None)
        assert has_sound_gradients(run) is None
        assert not has_vanishing_gradients(run)
    assert not {"vanishing", "exploding"} & {issue.kind for issue in run_issues(run)}


def test_frozen_layers_have_no_gradient_and_do_not_explode():
    """Only the head learns in the first epochs, so the record has no gradient of a convolution."""
    run = with_gradients(*[SOUND] * 16)
    frozen = {**run.layer_stats[0], "grad_norm": [None] * 3, "grad_to_weight": [None] * 3}
    run = dataclasses.replace(run, layer_stats=(frozen, *run.layer_stats[1:]))
    assert has_exploding_gradients(run)
    recipe = dataclasses.replace(run.config.recipe, frozen_epochs=1)
    config = dataclasses.replace(run.config, recipe=recipe, weights="a.safetensors")
    assert not has_exploding_gradients(dataclasses.replace(run, config=config))


def test_without_statistics_nothing_is_known():
    assert layer_steps(synthetic_run("plain", 20, 0, 1.0, has_layer_stats=False)) is None
