"""The request for a planned run, and the plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resnetlab.config import DataConfig, RunConfig
from resnetlab.planning.image_survey import ImageSurvey
from resnetlab.training.execution.execution import Execution
from resnetlab.training.recipe_settings import base_name, named_recipe
from resnetlab.training.recipes import change_recipe

SCRATCH = "none"
"""The value of `--from` for random weights."""
FINETUNE = "finetune"
"""The recipe for trained weights."""


@dataclass(frozen=True)
class PlanRequest:
    """The values that the user has set; everything else is planned."""

    data: DataConfig
    model: str | None = None
    weights: str | None = None
    """Initial weights; `none` for random ones, `None` to plan them."""
    recipe: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the recipe."""
    run_fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `RunConfig`, such as `seed` and `precision`."""
    minutes: float | None = None
    """The time that the user has."""

    @property
    def has_length(self) -> bool:
        """Whether the user has set the length of the run: itself, or by a recipe without a time."""
        by_recipe = self.recipe is not None and self.minutes is None
        return by_recipe or bool({"epochs", "steps"} & self.changes.keys())

    @property
    def needs_weights(self) -> bool:
        """Whether the user has set a recipe that needs trained weights."""
        if self.recipe is None:
            return False
        if base_name(self.recipe) == FINETUNE:  # a short run of it has no epochs of the head alone
            return True
        recipe = change_recipe(named_recipe(self.recipe), self.changes)
        return recipe.frozen_epochs > 0 or recipe.freeze_bn


@dataclass(frozen=True)
class RunPlan:
    """A planned run."""

    config: RunConfig
    survey: ImageSurvey
    execution: Execution | None = None
    """The execution of the steps, if it was measured."""
    expected_s: float | None = None
    """Expected time in seconds, if the speed was measured."""
