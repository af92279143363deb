"""Losses of a recipe against their formulas, for classes and for the shares of mixed images."""

import dataclasses
import math

import pytest
import torch

from resnetlab.config import ConfigError, ModelConfig, Recipe, RunConfig
from resnetlab.training.loss import make_loss, num_wrong
from resnetlab.training.run_files.checkpoint import Checkpoint
from resnetlab.training.trainer import Trainer

LOGITS = torch.tensor([[2.0, -1.0, 0.5, 0.0], [0.3, 0.2, -2.0, 1.0]])
CLASSES = torch.tensor([0, 3])
SHARES = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.0, 0.4, 0.0, 0.6]])


def by_hand(recipe, labels):
    """The mean loss, one image and class after the other."""
    total = 0.0
    for row, label in zip(LOGITS.tolist(), labels, strict=True):
        shares = label.tolist() if labels.dim() == 2 else [float(k == label) for k in range(4)]
        targets = [share * (1 - recipe.label_smoothing) + recipe.label_smoothing / 4 for share in shares]
        if recipe.loss == "cross_entropy":
            log_sum = math.log(sum(map(math.exp, row)))
            total += sum(target * (log_sum - logit) for target, logit in zip(targets, row, strict=True))
            continue
        if recipe.bce_threshold is not None:
            targets = [float(target > recipe.bce_threshold) for target in targets]
        sigmoids = [1 / (1 + math.exp(-logit)) for logit in row]
        each = [-t * math.log(s) - (1 - t) * math.log(1 - s) for t, s in zip(targets, sigmoids, strict=True)]
        total += sum(each) / (1 if recipe.loss == "bce_sum" else 4)
    return total / 2


@pytest.mark.parametrize("labels", [CLASSES, SHARES])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"label_smoothing": 0.1},
        {"loss": "bce"},
        {"loss": "bce", "label_smoothing": 0.1},
        {"loss": "bce", "bce_threshold": 0.2},
        {"loss": "bce_sum"},
    ],
)
def test_a_loss_is_its_formula(fields, labels):
    recipe = Recipe(**fields)
    assert make_loss(recipe)(LOGITS, labels).item() == pytest.approx(by_hand(recipe, labels), rel=1e-6)


def test_a_mixed_image_counts_as_its_largest_share():
    assert num_wrong(LOGITS, SHARES).item() == 0
    assert num_wrong(LOGITS, SHARES.flip(0)).item() == 2
    assert num_wrong(LOGITS, torch.tensor([0, 0])).item() == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "mse"}, "loss 'mse' is unknown; choose one of: cross_entropy, bce, bce_sum"),
        ({"bce_threshold": 0.2}, "bce_threshold needs the loss bce or bce_sum"),
        ({"loss": "bce", "bce_threshold": 1.0}, "bce_threshold must be from 0 to below 1, not 1.0"),
        ({"loss": "bce", "class_weights": "balanced"}, "class_weights balanced needs cross_entropy, not bce"),
    ],
)
def test_invalid_fields_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(**fields)


EVERYTHING = Recipe(
    steps=24,
    batch_size=100,
    lr=0.01,
    optimizer="lamb",
    weight_decay=0.02,
    decay_norms=False,
    clip_grad_norm=1.0,
    loss="bce",
    bce_threshold=0.2,
    mixup=0.1,
    cutmix=1.0,
    rand_augment=6.0,
    random_erasing=0.2,
    augment_repeats=2,
    crop_padding=1,
    ema_decay=0.99,
)


def test_a_run_with_everything_resumes_in_the_middle_of_an_epoch():
    """12 steps an epoch: interrupted after 17."""
    model = ModelConfig("tiny", (1,), (4,), stem="cifar", num_classes=10)
    config = RunConfig(model, recipe=EVERYTHING, seed=2, layer_stats_steps=0)

    def train(trainer, stop):
        while trainer.state.step < stop:
            batches = trainer.data.batches(trainer.state.epochs_done, trainer.state.step - trainer.epoch_steps().start)
            while trainer.state.step < min(stop, trainer.epoch_steps().stop):
                trainer.train_step(batches)
            if trainer.state.step == trainer.epoch_steps().stop:
                trainer.finish_epoch()
        return trainer

    whole = train(Trainer(config), 24)
    saved = train(Trainer(config), 17).state_dict()
    tensors = {
        key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in saved["tensors"].items()
    }
    resumed = train(Trainer(config, checkpoint=Checkpoint(saved["state"], tensors)), 24)
    expected = whole.state_dict()["tensors"]
    assert all(torch.equal(tensor, expected[key]) for key, tensor in resumed.state_dict()["tensors"].items())
    assert resumed.state.val_errors == whole.state.val_errors


def test_the_loss_of_a_step_is_that_of_the_mixed_batch():
    model = ModelConfig("tiny", (1,), (4,), stem="cifar", num_classes=10)
    recipe = dataclasses.replace(EVERYTHING, ema_decay=0.0)
    trainer = Trainer(RunConfig(model, recipe=recipe, seed=2, layer_stats_steps=0))
    images, shares = next(trainer.data.batches(0))
    assert shares.shape == (100, 10)
    logits = trainer.model.train()(images)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, (shares > 0.2).float())
    metrics = Trainer(trainer.config).train_step(trainer.data.batches(0))
    assert metrics.loss == pytest.approx(expected.item(), rel=1e-6)
    assert metrics.num_wrong == int((logits.argmax(1) != shares.argmax(1)).sum())
