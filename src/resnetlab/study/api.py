"""Studies from Python: `resnetlab.study` trains the runs that are missing and returns a `Study` to ask."""

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetlab.config import ConfigError, DataConfig, Norm, Recipe
from resnetlab.serialization import one_of
from resnetlab.study.arms import Family
from resnetlab.study.executors.local_pool import RunEnded, RunTask, run_tasks
from resnetlab.study.executors.own_code import can_reach_workers, registered_code, run_here
from resnetlab.study.grid import Grid, run_study
from resnetlab.study.preset_grid import default_folder, preset_grid
from resnetlab.study.presets import get_preset
from resnetlab.study.study_results import Study
from resnetlab.system.cores import usable_cores

if TYPE_CHECKING:
    from resnetlab.study.grid import Executor


def study(
    arms: Sequence[str] | None = None,
    depths: Sequence[int] | None = None,
    *,
    preset: str | None = None,
    data: str | DataConfig | Sequence[str | DataConfig] = "digits",
    recipe: str | Recipe | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    family: Family = "cifar",
    norm: Norm | None = None,
    identity_init: bool = True,
    out: Path | str | None = None,
    jobs: int | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> Study:
    """Train every arm at every depth with every seed, write the report, and return the results.

    Runs that are in the folder already are reused, as by the command `resnetlab study`. Each run has a process of its
    own, so a script that calls this needs `if __name__ == "__main__":`. Blocks, optimizers, schedules and augmentations
    that the script has registered work in these processes; with code that no other process can import, as in a
    notebook, the runs take turns in this process.

    Args:
        arms: What is compared: `plain`, `residual`, `A`, `B`, `C`, or the name of a block, also of a registered one.
            Those of the preset if `None`.
        depths: Layers of the networks: 6n+2, or those of Table 1 (`family`); those of the preset, or 18 and 34, if
            `None`.
        preset: Settings to start from; `degradation` if `None`.
        data: Names or paths of data sets, or their configurations.
        recipe: A recipe or its name; each data set's own if `None`.
        seeds: Number of seeds, from 0 on; that of the preset if `None`.
        epochs: Passes over the training images, instead of the recipe's.
        steps: Length of each run in steps, instead of the recipe's.
        family: `cifar` for the networks of section 4.2, `imagenet` for those of Table 1.
        norm: Normalisation of every network; that of the preset if `None`.
        identity_init: False leaves out identity initialisation: each shallow plain network, deepened by identity
            layers. Presets other than `degradation` have none.
        out: Folder of the study; `studies/DATA` or `studies/DATA-PRESET` if `None`.
        jobs: Runs at once; the number of cores if `None`.
        fresh: Delete the study in the folder first.
        progress: Print the progress on standard error.

    Raises:
        ConfigError: for a value that cannot work; if `out` holds a study with other settings or is in use.
        RuntimeError: if every run failed.
    """
    defaults = get_preset(preset)
    if defaults.architectures:
        raise ConfigError(f"preset {defaults.name} is for the command line: resnetlab study --preset {defaults.name}")
    one_of("family", family, Family)
    own_arms = _names("arms", arms, str, "['plain', 'residual']")
    own_depths = _names("depths", depths, int, "[20, 56]")
    names = (
        [data] if isinstance(data, str | DataConfig) else list(_names("data", data, str | DataConfig, "'digits'") or ())
    )
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs must be at least 1, not {jobs}")
    grid = preset_grid(
        defaults,
        [DataConfig(item) if isinstance(item, str) else item for item in names],
        recipe=_checked_recipe(recipe),
        changes={name: value for name, value in (("epochs", epochs), ("steps", steps)) if value is not None},
        family=family,
        depths=own_depths,
        arms=own_arms,
        num_seeds=seeds,
        norm=norm,
        identity_init=identity_init,
    )
    folder = Path(out) if out is not None else default_folder([item.data for item in grid.datasets], preset)
    failed = _execute(grid, folder, jobs=jobs, fresh=fresh, progress=progress)
    result = Study(folder) if any((folder / "runs").glob("*/config.json")) else None
    if result is None or not any(run.status in ("done", "diverged") for run in result.runs):
        raise RuntimeError(f"every run failed: {next(iter(failed.values()), 'no run has started')}")
    result.write_report()
    return result


def _names(name: str, values: Any, kind: Any, example: str) -> tuple[Any, ...] | None:
    """Return a list's values as a tuple.

    Raises:
        ConfigError: if it is no list of values of this kind; a text is one value, not a list of letters.
    """
    if values is None:
        return None
    if isinstance(values, Iterable) and not isinstance(values, str | bytes):
        found = tuple(values)
        if all(isinstance(value, kind) and not isinstance(value, bool) for value in found):
            return found
    raise ConfigError(f"{name} must be a list such as {example}, not {values!r}")


def _checked_recipe(recipe: Any) -> str | Recipe | None:
    """Return the recipe; raise `ConfigError` if it is neither one nor a name."""
    if recipe is None or isinstance(recipe, str | Recipe):
        return recipe
    raise ConfigError(f"recipe must be a Recipe or a name such as 'digits', not {recipe!r}")


def _execute(grid: Grid, folder: Path, *, jobs: int | None, fresh: bool, progress: bool) -> dict[str, str]:
    """Execute the missing runs; return the error of each failed run by name."""
    from rich.console import Console

    from resnetlab.study.display import StudyDisplay

    num_workers = usable_cores() if jobs is None else jobs
    events = run_study(grid, folder, num_workers=num_workers, fresh=fresh, executor=_executor(num_workers))
    failed: dict[str, str] = {}
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123  # a device
        console = Console(stderr=True, markup=False) if progress else Console(file=nowhere, markup=False)
        with closing(events), StudyDisplay(console) as display:
            for event in events:
                display.update(event)
                if isinstance(event, RunEnded) and event.error is not None:
                    failed[event.task.out.name] = event.error
    return failed


def _executor(num_workers: int) -> "Executor":
    codes = registered_code()
    if not can_reach_workers(codes):
        return run_here

    def execute(tasks: Sequence[RunTask]) -> Any:
        return run_tasks(tasks, num_workers, codes)

    return execute
