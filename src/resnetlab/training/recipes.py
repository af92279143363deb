"""Named recipes: the ways of training that have a name. A name plus overrides is all a run needs. No torch here."""

import dataclasses
from typing import Any

from resnetlab.config import ConfigError, Recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # 1,257 training images: small batches give enough steps in a minute. Learning rate and length were chosen on
        # training and validation error (docs/log.md); momentum, decay and the two drops are section 4.2's.
        Recipe(
            name="digits", epochs=5, batch_size=16, lr=0.01, momentum=0.9, weight_decay=1e-4,
            schedule="step", milestones=(0.5, 0.75),
        ),
    )
}  # fmt: skip


def recipe(name: str, **overrides: Any) -> Recipe:
    """Return a named recipe with fields changed; an override of `None` leaves the recipe's own value.

    Raises:
        ConfigError: for an unknown name, or a value the recipe refuses.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} is unknown; known: {', '.join(RECIPES)}")
    given = {field: value for field, value in overrides.items() if value is not None}
    return dataclasses.replace(RECIPES[name], **given)
