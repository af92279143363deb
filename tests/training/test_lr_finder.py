"""The learning-rate finder: its rates, its steps, and what it suggests."""

import dataclasses
import itertools
import math

import pytest
import torch

from resnetlab.config import ConfigError, DataConfig, Recipe, RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.training.callbacks import Callback
from resnetlab.training.lr_finder import LrCurve, LrSweep, find_lr, has_diverged, smooth, sweep_config
from resnetlab.training.optimizers.lr_schedule import register_schedule
from resnetlab.training.profiler import measure_stages
from resnetlab.training.recipes import recipe
from resnetlab.training.trainer import Trainer

SWEEP = LrSweep(min_lr=1e-4, max_lr=0.1, steps=12)
CONFIG = RunConfig(
    model_config("resnet8"), DataConfig(train_images=100), recipe("digits", batch_size=20), layer_stats_steps=0
)
"""Five steps an epoch, so that a sweep takes three epochs."""


def curve(losses, diverged_lr=None):
    rates = tuple(LrSweep(1e-4, 1.0, len(losses)).lr_at(step) for step in range(len(losses)))
    return LrCurve(rates, tuple(losses), tuple(losses), diverged_lr)


def test_rates_rise_by_equal_factors():
    rates = [SWEEP.lr_at(step) for step in range(12)]
    assert (rates[0], rates[-1]) == (pytest.approx(1e-4), pytest.approx(0.1))
    assert [after / before for before, after in itertools.pairwise(rates)] == pytest.approx([1000 ** (1 / 11)] * 11)


@pytest.mark.parametrize(
    "values",
    [{"min_lr": 0.0}, {"min_lr": 1.0, "max_lr": 1.0}, {"max_lr": math.inf}, {"steps": 9}, {"min_lr": math.nan}],
)
def test_an_impossible_sweep_is_refused(values):
    with pytest.raises(ConfigError):
        LrSweep(**values)


def test_the_smoothed_loss_starts_without_a_bias():
    assert smooth([2.0] * 5) == pytest.approx([2.0] * 5)
    assert smooth([1.0, 0.0])[1] == pytest.approx(0.9 * 0.1 / (1 - 0.9**2))


def test_a_sweep_ends_when_the_loss_explodes():
    falling = [2.3, 2.2, 2.0, 1.8]
    assert not has_diverged([])
    assert not has_diverged([*falling, 4.0])
    assert has_diverged([*falling, 1e4])
    assert has_diverged([*falling, math.nan])


def test_a_tenth_of_the_rate_at_the_lowest_loss_is_suggested():
    found = curve([2.3, 2.2, 1.9, 1.2, 1.0, 3.0, 9.0, 20, 40, 80, 99], diverged_lr=1.0)
    assert found.lowest_lr == found.lr[4]
    assert found.suggested_lr == pytest.approx(found.lr[4] / 10)
    assert found.as_json()["diverged_lr"] == 1.0


def test_nothing_is_suggested_where_the_loss_does_not_fall():
    assert curve([2.30, 2.29, 2.31, 2.30, 2.28, 2.5, 2.6, 2.7, 2.8, 3.0]).suggested_lr is None


class Losses(Callback):
    """Stores the loss and the rate of each step."""

    def __init__(self):
        self.steps: list[tuple[float, float]] = []

    def on_step(self, trainer, metrics):
        self.steps.append((metrics.lr, metrics.loss))


def test_the_steps_are_those_of_a_run():
    """A run whose schedule has the same rates has the same losses, to the last bit, over several epochs."""
    register_schedule("rates of the test's sweep", lambda at: SWEEP.lr_at(at.step))
    losses, seen = Losses(), []
    changed = dataclasses.replace(CONFIG.recipe, steps=12, schedule="rates of the test's sweep")
    Trainer(dataclasses.replace(CONFIG, recipe=changed), [losses]).fit()
    found = find_lr(CONFIG, SWEEP, on_step=lambda step, lr, loss: seen.append((lr, loss)))
    assert list(zip(found.lr, found.loss, strict=True)) == losses.steps == seen
    assert found.diverged_lr is None


def test_a_rate_that_is_too_high_ends_the_sweep():
    found = find_lr(CONFIG, LrSweep(min_lr=1e-3, max_lr=1e8, steps=15))
    assert found.diverged_lr is not None
    assert len(found.loss) < 15
    assert all(map(math.isfinite, found.loss))
    with pytest.raises(ConfigError, match="not finite at the first learning rate"):
        find_lr(
            dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, norm="none", init_scale=1e12)), SWEEP
        )


def test_what_belongs_to_another_length_is_left_out():
    long = Recipe(
        epochs=90, warmup_epochs=5, schedule="cosine", ema_decay=0.9, keep="best", early_stop_epochs=3,
        train_sizes=((0, 24), (0.5, 32)), weight_decay=0.1, label_smoothing=0.1, class_weights="balanced",
    )  # fmt: skip
    short = sweep_config(dataclasses.replace(CONFIG, recipe=long), 30).recipe
    assert (short.steps, short.schedule, short.warmup_epochs, short.ema_decay) == (30, "constant", 0, 0)
    assert (short.early_stop_epochs, short.keep, short.train_sizes) == (None, "last", ((0, 24),))
    assert (short.weight_decay, short.label_smoothing, short.class_weights) == (0.1, 0.1, "balanced")


def stop(at):
    if not isinstance(at, str) or at.startswith("augmentation"):  # the trainer is built
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "work",
    [
        lambda config: find_lr(config, SWEEP, on_start=stop),
        lambda config: measure_stages(config, workers=0, on_stage=stop),
    ],
)
def test_the_threads_of_the_process_stay(work):
    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        work(dataclasses.replace(CONFIG, threads=before + 1))
    assert torch.get_num_threads() == before
