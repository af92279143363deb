"""The speed of training is that of the run's own steps, with all that a recipe adds to them."""

import pytest

from resnetlab.config import RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.training.optimizers.weight_average import WeightAverage
from resnetlab.training.profiler import measure_stages
from resnetlab.training.recipes import recipe
from resnetlab.training.trainer import Trainer


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_steps_are_those_of_the_trainer(monkeypatch, micro_batches):
    changes = {"ema_decay": 0.9, "clip_grad_norm": 1.0, "max_update": 0.05, "schedule": "linear", "batch_size": 16}
    config = RunConfig(
        model_config("resnet8-stochastic-depth"),
        recipe=recipe("digits", steps=3, **changes),
        grad_accum_steps=micro_batches,
    )
    rates, averages, keys = [], [], []
    update, average = Trainer.update, WeightAverage.update

    def counted(trainer, lr, **options):
        rates.append(lr)
        assert trainer.config.layer_stats_steps == 0  # such a step is not the compiled one
        keys.append(trainer.block_noise._blocks[0]._state.tolist())
        update(trainer, lr, **options)

    monkeypatch.setattr(Trainer, "update", counted)
    monkeypatch.setattr(WeightAverage, "update", lambda *arguments: averages.append(average(*arguments)))
    speeds = measure_stages(config, workers=0, time_s=0.05)
    assert (speeds.speeds["step"] or 0) > 0
    assert speeds.all_stages > 0
    assert len(averages) == len(rates) > 3
    assert min(rates) > 0
    assert len({key for key, _ in keys}) == 3


@pytest.mark.parametrize("crop", ["pad", "resized", "scale"])
def test_steps_have_images_of_the_reported_size(monkeypatch, crop):
    config = RunConfig(
        model_config("resnet8"), recipe=recipe("digits", steps=3, batch_size=16, crop=crop, train_sizes=((0, 12),))
    )
    sides = set()
    train_step = Trainer.train_step

    def seen(trainer, batches):
        images, labels = next(batches)
        sides.add(tuple(images.shape))
        return train_step(trainer, iter([(images, labels)]))

    monkeypatch.setattr(Trainer, "train_step", seen)
    speeds = measure_stages(config, workers=0, time_s=0.02)
    assert speeds.train_side == 12
    assert sides == {(16, 1, 12, 12)}
