"""Options of `resnetlab study --preset everywhere`."""

from typing import TYPE_CHECKING

from resnetlab.cli.unused_options import given_options
from resnetlab.config import ConfigError
from resnetlab.training.recipe_settings import recipe_changes

if TYPE_CHECKING:
    from resnetlab.cli.study import Options
    from resnetlab.study.architectures.architecture_grid import ArchitectureGrid

APPLICABLE = (
    "preset",
    "seeds",
    "epochs",
    "steps",
    "precision",
    "out",
    "jobs",
    "executor",
    "address",
    "gpus_per_run",
    "fresh",
    "json",
)
"""Options that this preset takes."""


def build_architecture_grid(options: "Options") -> "ArchitectureGrid":
    """Return the runs of the preset, with the given number of seeds, length and precision.

    Raises:
        ConfigError: for an option that does not apply, or a value that cannot work.
    """
    from resnetlab.study.architectures.architecture_grid import ArchitectureGrid

    for name in given_options(options):
        if name not in APPLICABLE:
            own = ", ".join(f"--{name}" for name in ("seeds", "epochs", "steps", "precision"))
            raise ConfigError(
                f"--{name.replace('_', '-')} does not apply to preset {options.preset}, whose networks have data, "
                f"depths and recipes of their own; leave it out, or change {own}"
            )
    length = recipe_changes({"epochs": options.epochs, "steps": options.steps}, ())
    return ArchitectureGrid(3 if options.seeds is None else options.seeds, length, options.precision)
