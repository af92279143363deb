"""Configurations: validation, JSON, differences."""

import dataclasses
import json

import numpy as np
import pytest

from resnetlab.config import ConfigError, DataConfig, ModelConfig, Preprocessing, Recipe, RunConfig, read_config
from resnetlab.serialization import differences, from_json, to_json

RUN = RunConfig(ModelConfig(shortcut="none", num_classes=7), DataConfig(split_seed=3), Recipe(lr=1), 5)


def test_json_round_trip():
    assert from_json(RunConfig, json.loads(json.dumps(to_json(RUN)))) == RUN
    assert isinstance(from_json(RunConfig, to_json(RUN)).model.stage_blocks, tuple)


def test_missing_fields_take_their_defaults():
    assert from_json(Recipe, {"lr": 0.5}) == Recipe(lr=0.5)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Recipe, {"learning_rate": 1}, "no field 'learning_rate'"),
        (Recipe, {"epochs": "7"}, "epochs must be int, not '7'"),
        (Recipe, {"epochs": True}, "epochs must be int"),
        (Recipe, {"milestones": 0.5}, "milestones must be a list"),
        (RunConfig, {"model": 3}, "ModelConfig must be an object, not 3"),
    ],
)
def test_invalid_json_is_refused(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        from_json(kind, values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(shortcut="skip"), "shortcut 'skip' is unknown; choose one of: none, pad, project"),  # pyright: ignore
        (lambda: ModelConfig(stage_blocks=()), "stage_blocks is empty"),
        (lambda: ModelConfig(stage_blocks=(1, 1)), "2 stages and stage_channels 4"),
        (lambda: ModelConfig(stage_blocks=(1, 0, 1, 1)), "at least 1 each"),
        (lambda: ModelConfig(num_classes=0), "num_classes must be at least 1, not 0"),
        (lambda: ModelConfig(init_scale=float("nan")), "init_scale must be above 0"),
        (lambda: ModelConfig(norm="none", zero_init_residual=True), 'needs norm="batch"'),
        (lambda: DataConfig(""), "data is empty; give a name such as cifar10"),
        (lambda: DataConfig(on_bad_image="ask"), "on_bad_image 'ask' is unknown; choose one of: fail, skip"),  # pyright: ignore
        (lambda: DataConfig(image_size=0), "image_size must be at least 1"),
        (lambda: DataConfig(max_megapixels=0), "max_megapixels must be at least 1"),
        (lambda: DataConfig(resident_mib=-1), "resident_mib must be at least 0"),
        (lambda: Recipe(steps=0), "steps must be at least 1"),
        (lambda: Recipe(initial_lr=0.0), "initial_lr must be above 0"),
        (lambda: Recipe(initial_lr_until_pct=0), "initial_lr_until_pct must be above 0"),
        (lambda: Recipe(initial_lr=float("inf")), "initial_lr must be above 0"),
        (lambda: Recipe(epochs=2.5), "epochs must be a whole number of at least 1, not 2.5"),  # pyright: ignore
        (lambda: Recipe(steps=100.0), "steps must be a whole number of at least 1, not 100.0"),  # pyright: ignore
        (lambda: Recipe(batch_size=16.0), "batch_size must be a whole number of at least 2"),  # pyright: ignore
        (lambda: Recipe(epochs=True), "epochs must be a whole number of at least 1, not True"),
        (lambda: Recipe(steps="100"), "steps must be a whole number of at least 1, not '100'"),  # pyright: ignore
        (lambda: Recipe(warmup_epochs=float("inf")), "warmup_epochs must be finite and at least 0, not inf"),
        (lambda: Recipe(weight_decay=float("nan")), "weight_decay must be at least 0, not nan"),
        (lambda: Recipe(train_sizes=((0, 24.5),)), "each with a whole side of 8 or more"),  # pyright: ignore
        (lambda: RunConfig(grad_accum_steps=1.5), "grad_accum_steps must be a whole number"),  # pyright: ignore
        (lambda: DataConfig(train_images=100.5), "train_images must be a whole number"),  # pyright: ignore
        (lambda: ModelConfig(stage_blocks=(1.0, 1, 1, 1)), "stage_blocks must be whole numbers"),  # pyright: ignore
        (lambda: Recipe(patience=0), "patience must be at least 1"),
        (lambda: Recipe(scale_range=(480, 256)), "scale_range must be two rising sides"),
        (lambda: Recipe(jitter=2), "jitter must be from 0 to 1"),
        (lambda: Recipe(lighting=-1), "lighting must be at least 0"),
        (lambda: Recipe(crop="middle"), "crop 'middle' is unknown"),  # pyright: ignore
        (lambda: RunConfig(precision="fp16"), "precision 'fp16' is unknown; choose one of: auto, fp32, tf32, bf16"),  # pyright: ignore
        (lambda: Preprocessing(8, (0.5,), (1.0,), pixel_mean=(0.5,)), "1 channels of 8x8 pixels need 64"),
        (lambda: Preprocessing(8, (0.5,), (1.0,), crop_ratio=1.5), "crop_ratio must be above 0 and at most 1"),
        (lambda: Recipe(epochs=0), "epochs must be at least 1, not 0"),
        (lambda: Recipe(batch_size=1), "batch_size must be at least 2"),
        (lambda: Recipe(lr=0), "lr must be above 0"),
        (lambda: Recipe(lr=float("inf")), "lr must be above 0"),
        (lambda: Recipe(momentum=1), "momentum must be from 0 to below 1"),
        (lambda: Recipe(milestones=(0.75, 0.5)), "rising fractions"),
        (lambda: RunConfig(seed=-1), "seed must be at least 0"),
        (lambda: Preprocessing(8, (0.5,), (0.0,)), "std must be above 0"),
        (lambda: Preprocessing(8, (0.5, 0.5), (1.0,)), "mean has 2 channels and std 1"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_whole_numbers_of_numpy_are_whole():
    assert Recipe(epochs=np.int64(3), warmup_epochs=np.float32(0.5)).epochs == 3  # pyright: ignore


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RUN.seed = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_differences_include_the_path_of_a_field():
    other = dataclasses.replace(RUN, recipe=Recipe(lr=1, epochs=3), seed=6)
    assert differences(RUN, RUN) == []
    assert differences(RUN, other) == ["recipe.epochs: 5 -> 3", "seed: 5 -> 6"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"seed": -1}', '{"sede": 1}', "[" * 100_000, '{"model": 3}', '{"seed": 1e999}', "\x00"]
)
def test_an_invalid_configuration_file_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json: not a run's configuration"):
        read_config(path)
