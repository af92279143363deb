"""Fields of a recipe on the command line and in TOML files."""

import dataclasses
import json

import pytest

from resnetlab.config import ConfigError, Recipe
from resnetlab.models.zoo import model_config
from resnetlab.serialization import from_json, to_json
from resnetlab.training.recipe_settings import named_recipe, parse_settings
from resnetlab.training.recipes import RECIPES, change_recipe, recipe

MODEL = model_config("resnet20")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("weight_decay=5e-4", 5e-4),
        ("lr=1", 1.0),
        ("schedule=cosine", "cosine"),
        ('schedule="cosine"', "cosine"),
        ("milestones=[0.25, 0.5]", (0.25, 0.5)),
        ("train_sizes=[[0, 24], [0.5, 32]]", ((0.0, 24), (0.5, 32))),
        ("nesterov=true", True),
        ("decay_norms=false", False),
        ("steps=none", None),
        ("max_update=None", None),
        ("max_update=0.05", 0.05),
        ("augmentations=['a', 'b']", ("a", "b")),
        ("name=my recipe", "my recipe"),
    ],
)
def test_a_setting_has_the_type_of_its_field(setting, value):
    (parsed,) = parse_settings([setting]).values()
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["weight_decay"], "--set weight_decay: write FIELD=VALUE, such as weight_decay=5e-4"),
        (["weight_decay="], "write FIELD=VALUE"),
        (["weigth_decay=1"], "--set: a recipe has no field weigth_decay; did you mean weight_decay?"),
        (["zzz=1"], "a recipe has: name, epochs, steps"),
        (["lr=1", "lr=2"], "--set gives lr twice"),
        (["lr=fast"], "--set: lr must be float, not 'fast'"),
        (["epochs=1.5"], "--set: epochs must be int, not 1.5"),
        (["steps=many"], "--set: steps must be int, not 'many'"),
        (["nesterov=yes"], "--set: nesterov must be bool, not 'yes'"),
        (["milestones=0.5"], "--set: milestones must be a list, not 0.5"),
        (["scale_range=[256]"], r"--set: scale_range must have 2 values, not 1: \[256\]"),
        (["lr=none"], "--set: lr must be float, not None"),
    ],
)
def test_a_wrong_setting_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(settings)


def test_every_field_of_every_recipe_can_be_written_as_a_setting():
    """As JSON, which is TOML for all values that recipes have."""
    for name, known in RECIPES.items():
        values = to_json(known)
        settings = [f"{field}={'none' if value is None else json.dumps(value)}" for field, value in values.items()]
        assert dataclasses.replace(Recipe(), **parse_settings(settings)) == known, name
        assert from_json(Recipe, values) == known


def test_a_file_starts_from_its_base(tmp_path):
    path = tmp_path / "short.toml"
    path.write_text('base = "cifar-paper"\nepochs = 30\nnesterov = true\nmilestones = [0.3, 0.9]\n')
    expected = recipe("cifar-paper", MODEL, epochs=30, nesterov=True, milestones=(0.3, 0.9))
    assert named_recipe(str(path), MODEL) == dataclasses.replace(expected, name="short")
    path.write_text("lr = 2\n")
    assert named_recipe(str(path), MODEL) == Recipe(name="short", lr=2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = ", "short.toml: not a recipe in TOML"),
        ("learning_rate = 1", "short.toml: a recipe has no field learning_rate"),
        ("lr = -1", "short.toml: lr must be above 0, not -1"),
        ('lr = "1"', "short.toml: lr must be float, not '1'"),
        ('base = "cifar"', "short.toml: recipe 'cifar' is unknown"),
    ],
)
def test_a_wrong_file_is_refused(text, message, tmp_path):
    (tmp_path / "short.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        named_recipe(str(tmp_path / "short.toml"), MODEL)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"my\.toml: the recipe cannot be read \(No such file or directory\)"):
        named_recipe(str(tmp_path / "my.toml"), MODEL)


def test_a_setting_can_remove_a_value():
    assert change_recipe(Recipe(max_update=0.1), parse_settings(["max_update=none"])).max_update is None


def test_a_recipe_file_scales_lr_as_its_base_does(tmp_path):
    (tmp_path / "mine.toml").write_text('base = "imagenet-90"\nlabel_smoothing = 0.0\n')
    mine = named_recipe(str(tmp_path / "mine.toml"))
    assert change_recipe(mine, {"batch_size": 64}).lr == pytest.approx(0.256 / 4)
    assert change_recipe(mine, {"batch_size": 64, "lr": 0.1}).lr == 0.1
    assert change_recipe(mine, {"batch_size": 64, "scale_lr": False}).lr == 0.256
