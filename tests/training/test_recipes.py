"""Every named recipe trains, and the published ones have the published values."""

from typing import Any

import pytest
import torch

from resnetlab.config import DataConfig, ModelConfig, RunConfig
from resnetlab.serialization import from_json, to_json
from resnetlab.training.recipes import RECIPES, recipe
from resnetlab.training.trainer import Trainer

TINY = ModelConfig("tiny", (1,), (4,), stem="cifar", num_classes=10)
SOURCES = {
    "timm-a3": {
        "epochs": 100,
        "batch_size": 2048,
        "lr": 0.008,
        "optimizer": "lamb",
        "weight_decay": 0.02,
        "warmup_epochs": 5,
        "schedule": "cosine",
        "loss": "bce",
        "mixup": 0.1,
        "cutmix": 1.0,
        "rand_augment": 6.0,
        "label_smoothing": 0.0,
        "augment_repeats": 1,
        "random_erasing": 0.0,
        "ema_decay": 0.0,
        "train_sizes": ((0, 160),),
    },
    "torchvision-v2": {
        "epochs": 600,
        "batch_size": 8 * 128,
        "lr": 0.5,
        "optimizer": "sgd",
        "weight_decay": 0.00002,
        "warmup_epochs": 5,
        "schedule": "cosine",
        "loss": "cross_entropy",
        "mixup": 0.2,
        "cutmix": 1.0,
        "trivial_augment": True,
        "label_smoothing": 0.1,
        "augment_repeats": 4,
        "random_erasing": 0.1,
        "train_sizes": ((0, 176),),
    },
}
"""mmpretrain's resnet50_8xb256-rsb-a3-100e_in1k; and the command of torchvision's IMAGENET1K_V2."""


@pytest.mark.parametrize("name", SOURCES)
def test_a_published_recipe_has_the_published_values(name):
    assert {field: getattr(RECIPES[name], field) for field in SOURCES[name]} == SOURCES[name]


def test_torchvisions_average_has_the_same_memory():
    """32 steps of ours forget as much as one of theirs: --model-ema-steps 32 --model-ema-decay 0.99998."""
    theirs = 1 - (1 - 0.99998) * 8 * 128 * 32 / 600
    assert RECIPES["torchvision-v2"].ema_decay ** 32 == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(name):
    small: dict[str, Any] = {"steps": 2, "batch_size": 32}
    if RECIPES[name].train_sizes:
        small["train_sizes"] = ((0, 8),)
    if RECIPES[name].frozen_epochs or RECIPES[name].freeze_bn:
        small |= {"frozen_epochs": 0, "freeze_bn": False}  # the network is random here
    data = DataConfig(image_size=None, train_images=64)
    trainer = Trainer(RunConfig(TINY, data=data, recipe=recipe(name, **small), seed=1, layer_stats_steps=0))
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    losses = [trainer.train_step(batch).loss for batch in [trainer.data.batches(0)] for _ in range(2)]
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    after = trainer.model.state_dict()
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])
    lines = "\n".join(trainer.describe())
    assert RECIPES[name].optimizer in lines
    for word, is_used in (("mixup", RECIPES[name].mixup), ("TrivialAugment", RECIPES[name].trivial_augment)):
        assert (word in lines) == bool(is_used)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_its_file(name):
    config = RunConfig(TINY, recipe=recipe(name, frozen_epochs=0))
    assert from_json(RunConfig, to_json(config)) == config


def test_files_of_older_recipes_stay_as_they_are():
    stored = to_json(recipe("cifar-paper"))
    assert not {"loss", "mixup", "cutmix", "beta2", "augment_repeats", "rand_augment", "clip_grad_norm"} & set(stored)
