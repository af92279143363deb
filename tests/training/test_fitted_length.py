"""Warm-up, epochs of the head alone and image sizes follow another length than the recipe's own."""

import dataclasses

import pytest

from resnetlab.cli.train_config import override_config
from resnetlab.cli.train_options import Options, RecipeOptions
from resnetlab.config import Recipe, RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.study.architectures.architecture_grid import ArchitectureGrid
from resnetlab.training.length_warnings import length_warnings, size_index
from resnetlab.training.recipe_settings import named_recipe
from resnetlab.training.recipes import RECIPES, change_recipe, recipe
from resnetlab.training.trainer import Trainer


def sides(sized: Recipe, num_epochs: int) -> list[int]:
    return [sized.train_sizes[size_index(sized, epoch, num_epochs)][1] for epoch in range(num_epochs)]


@pytest.mark.parametrize(
    ("name", "epochs", "warmup"),
    [
        ("fast", 5, 1.0),
        ("fast", 30, 6),
        ("fast", 60, 6),
        ("imagenet-90", 30, 6.0),
        ("imagenet-90", 50, 8),
        ("torchvision-v2", 90, 5),
        ("scratch", 1, 0.2),
        ("scratch", 30, 1),
    ],
)
def test_a_warm_up_takes_a_fifth_of_the_epochs_at_most(name, epochs, warmup):
    assert recipe(name, epochs=epochs).warmup_epochs == pytest.approx(warmup)


def test_a_warm_up_keeps_a_larger_share():
    """The Transformer of the preset `everywhere` warms up in 2 of 6 epochs."""
    configs = ArchitectureGrid(1, {"epochs": 3}).runs()
    assert {c.recipe.warmup_epochs for c in configs if c.architecture and c.architecture.name == "transformer"} == {1.0}


def test_steps_have_a_warm_up_in_steps():
    for name in ("fast", "imagenet-90"):
        short = recipe(name, steps=900)
        share = RECIPES[name].warmup_epochs / RECIPES[name].epochs
        assert (short.warmup_epochs, short.warmup_steps) == (0.0, round(900 * share))
    assert recipe("scratch", steps=2).warmup_steps == 0
    assert recipe("cifar-paper", steps=100) == dataclasses.replace(RECIPES["cifar-paper"], steps=100)


def test_a_second_length_in_steps_keeps_the_share():
    first = recipe("fast", steps=1000)
    assert (first.warmup_steps, change_recipe(first, {"steps": 200}).warmup_steps) == (200, 40)


@pytest.mark.parametrize("given", [{"warmup_epochs": 4.0}, {"warmup_steps": 700}])
@pytest.mark.parametrize("length", [{"epochs": 2}, {"steps": 9}])
def test_what_is_given_with_a_length_stays(given, length):
    found = change_recipe(RECIPES["fast"], {**given, **length})
    assert {name: getattr(found, name) for name in given} == given
    assert found.warmup_steps == given.get("warmup_steps", 0)


def test_a_recipe_of_ones_own_is_fitted_as_its_base(tmp_path):
    (tmp_path / "short.toml").write_text('base = "imagenet-90"\nepochs = 10\n')
    assert named_recipe(str(tmp_path / "short.toml")).warmup_epochs == 2.0
    (tmp_path / "own.toml").write_text('base = "imagenet-90"\nepochs = 10\nwarmup_epochs = 5\n')
    assert named_recipe(str(tmp_path / "own.toml")).warmup_epochs == 5.0


def test_the_last_epoch_has_the_last_size():
    assert sides(RECIPES["fast"], 30) == [24] * 12 + [32] * 18
    assert sides(RECIPES["imagenet-fast"], 16) == [160] * 12 + [192] * 4
    for name in ("fast", "imagenet-fast"):
        for epochs in (1, 2, 3, 5, 7, 30):
            found = sides(recipe(name, epochs=epochs), epochs)
            assert found[-1] == RECIPES[name].train_sizes[-1][1], (name, epochs)
            assert found[0] == RECIPES[name].train_sizes[0][1] or epochs == 1
    assert recipe("fast", epochs=1).train_sizes == ((0, 32),)


def test_fine_tuning_trains_all_layers_for_an_epoch():
    assert [recipe("finetune", epochs=n).frozen_epochs for n in (1, 2, 20)] == [0, 1, 1]
    assert recipe("finetune", epochs=1, frozen_epochs=1).frozen_epochs == 1


def test_a_run_that_continues_keeps_its_own():
    """Runs of earlier versions have the warm-up of the recipe's own length."""
    old = dataclasses.replace(RECIPES["fast"], epochs=5)
    config = RunConfig(model_config("resnet8"), recipe=old)
    for epochs in (5, 3):
        found = override_config(config, Options(recipe=RecipeOptions(epochs=epochs))).recipe
        assert found == dataclasses.replace(old, epochs=epochs)
    fast = Options(recipe=RecipeOptions("fast", epochs=5))
    assert override_config(config, fast).recipe.warmup_epochs == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"warmup_epochs": 1.0}, "the warm-up lasts 3 steps and the run 6"),
        ({"train_sizes": ((0, 8), (0.6, 12), (0.9, 16))}, "no image is trained at 12 and 16 pixels"),
    ],
)
def test_a_run_too_short_for_its_recipe_is_a_warning(changes, words):
    short = recipe("digits", epochs=2, batch_size=400)
    config = RunConfig(model_config("resnet8"), recipe=short)
    assert Trainer(config).warnings == []
    (warning,) = Trainer(dataclasses.replace(config, recipe=dataclasses.replace(short, **changes))).warnings
    assert words in warning


def test_the_head_alone_is_a_warning():
    tuned = Recipe(frozen_epochs=2)
    assert length_warnings(tuned, 30, 3) == []
    (warning,) = length_warnings(tuned, 20, 2)
    assert warning.startswith("only the head learns: frozen_epochs is 2, and the run has 2 epochs; ")
