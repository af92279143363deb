import dataclasses
import json

import pytest

from resnetlab.config import (
    DATA_NAMES,
    ConfigError,
    DataConfig,
    ModelConfig,
    Preprocessing,
    Recipe,
    RunConfig,
    differences,
    from_json,
    read_config,
    to_json,
)
from resnetlab.data.sources import SOURCES

RUN = RunConfig(ModelConfig(shortcut="none", num_classes=7), DataConfig(split_seed=3), Recipe(lr=1), 5)


def test_json_goes_both_ways():
    assert from_json(RunConfig, json.loads(json.dumps(to_json(RUN)))) == RUN
    assert isinstance(from_json(RunConfig, to_json(RUN)).model.stage_blocks, tuple)


def test_fields_left_out_take_their_defaults():
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
def test_json_that_does_not_fit(kind, values, message):
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
        (lambda: DataConfig("nothere"), "data 'nothere' is unknown; known: digits"),
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
def test_values_that_cannot_work_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RUN.seed = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_differences_are_named_with_their_path():
    other = dataclasses.replace(RUN, recipe=Recipe(lr=1, epochs=3), seed=6)
    assert differences(RUN, RUN) == []
    assert differences(RUN, other) == ["recipe.epochs: 5 -> 3", "seed: 5 -> 6"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"seed": -1}', '{"sede": 1}'])
def test_a_broken_configuration_file_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json: not a run's configuration"):
        read_config(path)


def test_every_named_data_set_can_be_opened():
    assert set(SOURCES) == set(DATA_NAMES)
