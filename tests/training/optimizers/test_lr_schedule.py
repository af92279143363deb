from itertools import pairwise

import numpy as np
import pytest

from resnetlab.config import ConfigError, Recipe
from resnetlab.models.zoo import model_config
from resnetlab.training.optimizers.lr_schedule import lr_at, milestone_steps, num_lr_drops
from resnetlab.training.recipes import RECIPES, default_recipe, recipe


def test_step_divides_where_the_paper_does():
    """Section 4.2: 0.1, divided by 10 at 32k and 48k of 64k iterations."""
    paper = Recipe(lr=0.1, schedule="step", milestones=(0.5, 0.75))
    at = {step: lr_at(step, 64_000, paper) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)}
    assert list(at.values()) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("total", [1, 3, 7, 29, 49, 100, 391, 700])
def test_milestone_steps_are_those_at_which_the_rate_falls(total):
    """Also where the product of a milestone and the steps is rounded up, as 0.55 * 100 is."""
    for hundredth in range(1, 100):
        way = Recipe(lr=1.0, schedule="step", milestones=(hundredth / 100,))
        falls = [step for step in range(total) if lr_at(step, total, way) < 0.5]
        assert milestone_steps(way, total) == [falls[0] if falls else total]


def test_the_other_schedules():
    assert [lr_at(s, 4, Recipe(lr=1, schedule="linear")) for s in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [lr_at(s, 4, Recipe(lr=1, schedule="constant")) for s in range(4)] == [1] * 4
    assert [lr_at(s, 4, Recipe(lr=1, schedule="cosine")) for s in (0, 2)] == pytest.approx([1, 0.5])


def test_warmup_rises_to_the_schedule():
    warm = Recipe(lr=0.4, schedule="constant", warmup_steps=4)
    assert [lr_at(s, 10, warm) for s in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_from_warmup_on_the_rate_falls_without_a_step():
    """As ffcv-imagenet (`get_lr`) and NVIDIA DeepLearningExamples (`lr_cosine_policy`) have it, 10 steps an epoch."""
    fast = Recipe(lr=2, schedule="linear", warmup_steps=20)
    ffcv = np.interp(np.arange(20, 160) / 10, [0, 2, 16], [0, 2, 0])
    assert [lr_at(s, 160, fast) for s in range(20, 160)] == pytest.approx(list(ffcv))
    usual = Recipe(lr=0.256, schedule="cosine", warmup_steps=80)
    nvidia = 0.256 * 0.5 * (1 + np.cos(np.pi * (np.arange(80, 900) / 10 - 8) / (90 - 8)))
    assert [lr_at(s, 900, usual) for s in range(80, 900)] == pytest.approx(list(nvidia))
    for way, total in ((fast, 160), (usual, 900)):
        rates = [lr_at(s, total, way) for s in range(total)]
        assert max(abs(a - b) for a, b in pairwise(rates)) <= way.lr / way.warmup_steps * 1.001


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_run_may_be_all_warmup(schedule):
    warm = Recipe(lr=0.4, schedule=schedule, warmup_steps=4)
    assert [lr_at(s, 4, warm) for s in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_recipes_are_names_plus_overrides():
    assert recipe("digits", epochs=3, lr=None).epochs == 3
    assert recipe("digits", lr=None) == RECIPES["digits"]
    with pytest.raises(ConfigError, match="recipe 'digit' is unknown; known: digits"):
        recipe("digit")
    with pytest.raises(ConfigError, match="epochs must be at least 1"):
        recipe("digits", epochs=0)


def test_plateau_divides_after_patience_epochs_without_a_lower_error():
    """Section 3.4. Each list of errors is an epoch longer than the one before."""
    errors = [50.0, 40, 41, 40, 42, 39, 40, 41, 45, 39, 39, 39]
    counts = [num_lr_drops(errors[:length], patience=3) for length in range(len(errors) + 1)]
    assert counts == [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3]
    plateau = Recipe(lr=0.1, schedule="plateau")
    assert [lr_at(5, 9, plateau, num_drops=n) for n in range(3)] == pytest.approx([0.1, 0.01, 0.001])


def test_110_layers_start_with_the_initial_learning_rate():
    """Section 4.2: 0.01 until the training error is below 80 %, then 0.1."""
    deep = recipe("cifar-paper", model_config("resnet110"))
    assert (deep.initial_lr, deep.initial_lr_until_pct) == (0.01, 80)
    assert lr_at(0, 64_000, deep, at_initial_lr=True) == 0.01
    assert lr_at(0, 64_000, deep, at_initial_lr=False) == 0.1
    assert recipe("cifar-paper", model_config("resnet56")).initial_lr is None


def test_the_papers_recipes():
    """Section 4.2 and section 3.4, as PAPER.md has them."""
    cifar = recipe("cifar-paper")
    assert (cifar.steps, cifar.batch_size, cifar.lr) == (64_000, 128, 0.1)
    assert (cifar.weight_decay, cifar.momentum) == (1e-4, 0.9)
    assert [m * 64_000 for m in cifar.milestones] == [32_000, 48_000]
    assert (cifar.crop, cifar.crop_padding, cifar.flip, cifar.normalise) == ("pad", 4, True, "pixel")
    imagenet = recipe("imagenet-paper")
    assert (imagenet.steps, imagenet.batch_size, imagenet.lr, imagenet.schedule) == (600_000, 256, 0.1, "plateau")
    assert (imagenet.crop, imagenet.scale_range, imagenet.flip, imagenet.lighting) == ("scale", (256, 480), True, 0.1)


def test_epochs_take_the_place_of_steps():
    assert recipe("cifar-paper", epochs=2).steps is None
    assert recipe("cifar-paper", epochs=2, steps=7).steps == 7
    assert recipe("cifar-paper", steps=7).epochs == RECIPES["cifar-paper"].epochs


def test_the_recipe_follows_data_and_network():
    assert default_recipe("digits", model_config("resnet20")) == "digits"
    assert default_recipe("cifar10", model_config("resnet20")) == "cifar-paper"
    assert default_recipe("photos", model_config("resnet18")) == "imagenet-paper"
