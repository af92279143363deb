"""`resnetlab study`: train networks of several depths and report what depth does to them."""

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from resnetlab.cli.data_options import Reading, ReadingOptions
from resnetlab.config import ConfigError, DataConfig

if TYPE_CHECKING:
    from rich.console import Console

    from resnetlab.study.executors.local_pool import Event, RunTask
    from resnetlab.study.grid import Executor, Grid, StudyGrid
    from resnetlab.study.presets import Preset

NAMES_WIDTH = 90
"""Maximum characters for the names of runs in a line about their error."""


@dataclass(frozen=True)
class Options:
    """Train plain and residual networks of several depths and write a report on the effect of depth.

    The output folder is self-contained. The same command continues a study that was stopped, and a larger grid adds
    its runs to the existing ones.
    """

    preset: str | None = None
    """Effect to demonstrate: degradation (the default), vanishing, exploding or overfitting; or arms to compare at one
    depth: shortcuts (plain, A, B, C) or preactivation; or everywhere: the addition in an MLP, a VGG, 1-D convolutions
    and a Transformer. Options override its settings."""
    data: tuple[str, ...] = ("digits",)
    """Data sets, reported on one page: digits (1,797 real 8x8 images, no download), cifar10 …, or paths."""
    reading: Reading = ReadingOptions()
    image_size: int | None = None
    """Side of the networks' input in pixels; derived from the images if not given."""
    train_images: tuple[int, ...] | None = None
    """Sizes of the training set, such as 50 500 0: subsets of the training split; 0 is all of it."""
    recipe: str | None = None
    """digits, cifar-paper, scratch …, or a file such as my.toml. If not given: digits for digits, else that of the
    paper for the family."""
    set: tuple[str, ...] = ()
    """Any fields of the recipe, such as weight_decay=5e-4 schedule=cosine nesterov=true."""
    family: Literal["cifar", "imagenet"] = "cifar"
    """cifar: the networks of section 4.2. imagenet: those of Table 1, for images from about 64 pixels on."""
    depths: tuple[int, ...] | None = None
    """Depths of the networks. cifar: each of the form 6n+2 (bottleneck: 9n+2); 20 56 if not given. imagenet: 18, 34,
    50, 101, 152; 18 34 if not given."""
    arms: tuple[str, ...] | None = None
    """Arms of the experiment: plain, residual (zero-padding shortcuts, which add no parameters), A, B, C (the paper's
    options), bottleneck, and every block by its name, each also with -capped; those of the preset if not given (plain
    plain-capped residual without one)."""
    seeds: int | None = None
    """Repetitions, with seeds 0, 1, 2 …; 3 if not given (preset shortcuts: 5)."""
    epochs: int | None = None
    """Passes over the training images; if not given, the preset's number (without --recipe), or else the recipe's."""
    steps: int | None = None
    """Length of each run in steps, instead of epochs."""
    lr: float | None = None
    """Learning rate, instead of the recipe's."""
    norm: Literal["batch", "none"] | None = None
    """none leaves out batch normalisation."""
    init_scale: float | None = None
    """Factor on the initial weights of the convolutions, 1 if not given."""
    no_identity_init: bool = False
    """Leave out identity initialisation: each shallow plain network, deepened by identity layers (section 1)."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of convolutions, the same in every run."""
    out: Path | None = None
    """Folder for runs and report; studies/DATA or studies/DATA-PRESET if not given."""
    jobs: int | None = None
    """Runs at once, one thread each; the number of cores if not given. A Ray cluster runs as many as fit."""
    executor: Literal["local", "ray"] = "local"
    """local: processes of this machine. ray: tasks of a Ray cluster, whose machines all see the folder of --out."""
    address: str | None = None
    """Address of the Ray cluster that this machine belongs to: HOST:6379, or auto. If not given, RAY_ADDRESS is used,
    or else a cluster of this machine alone."""
    gpus_per_run: float = 0.0
    """GPUs that each Ray task reserves; a number below 1 shares one GPU."""
    fresh: bool = False
    """Delete the study in the folder and start over."""
    json: bool = False
    """Print results.json instead of a table."""


def run(options: Options) -> int:
    """Execute the study's missing runs and write its report; return 1 if a run failed."""
    from resnetlab.cli.study_architectures import build_architecture_grid
    from resnetlab.study.executors.local_pool import preload_torch
    from resnetlab.study.presets import get_preset
    from resnetlab.system.allocator import use_huge_pages

    preset = get_preset(options.preset)
    grid = build_architecture_grid(options) if preset.architectures else build_grid(options, preset)
    check_executor(options)
    use_huge_pages()  # PyTorch reads the setting in the forked processes
    if options.executor == "local":
        preload_torch()
    from resnetlab.cli.console import open_console  # imported while the fork server loads PyTorch
    from resnetlab.cli.report import print_results
    from resnetlab.study.preset_grid import default_folder
    from resnetlab.study.reports.report import write_report
    from resnetlab.study.results import RUNS

    out = options.out or default_folder([DataConfig(name) for name in options.data], options.preset)
    console = open_console(stderr=options.json)
    if note := selection_note(grid):
        console.print(note, highlight=False, width=min(80, console.width))
    try:
        failed = _execute(grid, out, options, console)
    except KeyboardInterrupt:
        console.print(f"stopped; finished runs are kept in {out}, the same command continues", soft_wrap=True)
        return 130
    rows: dict[str, Any] = {}
    if any((out / RUNS).glob("*/config.json")):  # otherwise every run failed before it started
        results = write_report(out)
        print_results(results, out, console, json_wanted=options.json)
        rows = {Path(row["directory"]).name: row for row in results["runs"]}
    failed |= failed_runs(grid, rows)
    if preset.may_diverge:
        failed = {name: error for name, error in failed.items() if rows.get(name, {}).get("status") != "diverged"}
    for line in failure_lines(failed):
        console.print(line, style="red", soft_wrap=True, highlight=False)
    return 1 if failed else 0


def selection_note(grid: "StudyGrid") -> str | None:
    """Return a warning if validation images will select the epoch of a run, which gives no verdict on optimisation."""
    recipes = [config.recipe for config in grid.runs()]
    if all(recipe.keep == "last" and recipe.early_stop_epochs is None for recipe in recipes):
        return None
    return (
        "note: by this recipe validation images select the epoch that is measured, so there will be no verdict on "
        "optimisation; --set keep=last early_stop_epochs=none measures the last one"
    )


def check_executor(options: Options) -> None:
    """Check the options of the executor.

    Raises:
        ConfigError: for a value that cannot work, or options that exclude each other.
    """
    gpus, jobs = options.gpus_per_run, options.jobs
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs must be at least 1, not {jobs}")
    if options.executor == "local" and (options.address is not None or gpus):
        raise ConfigError("--address and --gpus-per-run are for --executor ray")
    if options.executor == "ray" and jobs is not None:
        raise ConfigError("--jobs is for --executor local; a Ray cluster executes as many runs at once as fit")
    if not 0 <= gpus < math.inf or (gpus > 1 and gpus != int(gpus)):
        raise ConfigError(f"gpus-per-run is a part of one GPU, such as 0.5, or a whole number of them, not {gpus:g}")


def _execute(grid: "StudyGrid", out: Path, options: Options, console: "Console") -> dict[str, str]:
    """Execute the missing runs and show their progress; return the error of each failed run, by name."""
    from resnetlab.study.display import StudyDisplay
    from resnetlab.study.executors.local_pool import RunEnded
    from resnetlab.study.grid import run_study
    from resnetlab.system.cores import usable_cores

    num_workers = usable_cores() if options.jobs is None else options.jobs
    events = run_study(
        grid,
        out,
        num_workers=num_workers,
        fresh=options.fresh,
        executor=_ray_executor(options, console) if options.executor == "ray" else None,
        is_remote=options.executor == "ray",
    )
    failed: dict[str, str] = {}
    with closing(events), StudyDisplay(console) as display:
        for event in events:
            display.update(event)
            if isinstance(event, RunEnded) and event.error is not None:
                failed[event.task.out.name] = event.error
    return failed


def _ray_executor(options: Options, console: "Console") -> "Executor":
    """Return an executor on the Ray cluster, which prints a line to `console` for each run that is moved."""

    def execute(tasks: "Sequence[RunTask]") -> "Generator[Event]":
        from resnetlab.study.display import task_label
        from resnetlab.study.executors.local_pool import RunStarted
        from resnetlab.study.executors.ray_pool import run_tasks

        started: set[RunTask] = set()
        with closing(run_tasks(tasks, options.address, gpus=options.gpus_per_run)) as events:
            for event in events:
                if isinstance(event, RunStarted) and event.task in started:
                    moved = f"{task_label(event.task)} lost its machine and resumes elsewhere from its last checkpoint"
                    console.print(moved, soft_wrap=True, highlight=False)
                if isinstance(event, RunStarted):
                    started.add(event.task)
                yield event

    return execute


def failure_lines(failed: Mapping[str, str]) -> list[str]:
    """Return a line for each error, after the names of the runs that it ended."""
    from resnetlab.data.left_out import join_names

    runs: dict[str, list[str]] = {}
    for name, error in failed.items():
        runs.setdefault(error, []).append(name)
    return [
        f"failed: {names[0] if len(names) == 1 else f'{len(names)} runs ({join_names(names, NAMES_WIDTH)})'}: {error}"
        for error, names in runs.items()
    ]


def failed_runs(grid: "StudyGrid", rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the error of each run of the grid that ended without a result, by name.

    This includes runs that diverged in an earlier call, which are not repeated.

    Args:
        grid: The runs of the study.
        rows: Run name to the run's row of `results.json`.
    """
    from resnetlab.study.grid import run_name

    names = {run_name(config) for config in grid.runs()}
    names |= {run_name(deep, shallow.model.depth) for shallow, deep in grid.identity_init_pairs()}
    return {name: rows[name]["error"] for name in names & rows.keys() if rows[name]["status"] != "done"}


def build_grid(options: Options, preset: "Preset") -> "Grid":
    """Return the runs of a preset, with the given options in place of its settings.

    Raises:
        ConfigError: for a value that cannot work.
    """
    from resnetlab.data.registry import detect_kind
    from resnetlab.study.preset_grid import preset_grid
    from resnetlab.training.recipe_settings import recipe_changes

    sizes = options.train_images
    if sizes is not None and min(sizes, default=0) < 0:
        raise ConfigError(f"train-images must be at least 2, or 0 for all of them, not {min(sizes)}")
    data = [DataConfig(name, image_size=options.image_size, **options.reading.changes()) for name in options.data]
    for config in data:
        detect_kind(config)
    return preset_grid(
        preset,
        data,
        recipe=options.recipe,
        changes=recipe_changes({name: getattr(options, name) for name in ("epochs", "steps", "lr")}, options.set),
        train_images=None if sizes is None else [size or None for size in sizes],
        family=options.family,
        depths=options.depths,
        arms=options.arms,
        num_seeds=options.seeds,
        precision=options.precision,
        norm=options.norm,
        init_scale=options.init_scale,
        identity_init=not options.no_identity_init,
    )
