import pytest

from resnetlab.config import ConfigError, Recipe
from resnetlab.training.recipes import RECIPES, recipe
from resnetlab.training.schedule import lr_at


def test_step_divides_where_the_paper_does():
    """Section 4.2: 0.1, divided by 10 at 32k and 48k of 64k iterations."""
    paper = Recipe(lr=0.1, schedule="step", milestones=(0.5, 0.75))
    at = {step: lr_at(step, 64_000, paper) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)}
    assert list(at.values()) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_the_other_schedules():
    assert [lr_at(s, 4, Recipe(lr=1, schedule="linear")) for s in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [lr_at(s, 4, Recipe(lr=1, schedule="constant")) for s in range(4)] == [1] * 4
    assert [lr_at(s, 4, Recipe(lr=1, schedule="cosine")) for s in (0, 2)] == pytest.approx([1, 0.5])


def test_warmup_rises_to_the_schedule():
    warm = Recipe(lr=0.4, schedule="constant", warmup_steps=4)
    assert [lr_at(s, 10, warm) for s in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_recipes_are_names_plus_overrides():
    assert recipe("digits", epochs=3, lr=None).epochs == 3
    assert recipe("digits", lr=None) == RECIPES["digits"]
    with pytest.raises(ConfigError, match="recipe 'digit' is unknown; known: digits"):
        recipe("digit")
    with pytest.raises(ConfigError, match="epochs must be at least 1"):
        recipe("digits", epochs=0)
