"""`resnetlab study`: see degradation and its cure, or another thing that can be wrong with depth."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from resnetlab.config import ConfigError, DataConfig

if TYPE_CHECKING:
    from rich.console import Console

    from resnetlab.study.grid import Executor, Grid
    from resnetlab.study.local_pool import Event, RunTask
    from resnetlab.study.presets import Preset


@dataclass(frozen=True)
class Options:
    """Train plain and residual networks of several depths and write a report of what depth does to each.

    The folder it writes holds everything; the same command continues a study that was stopped, and a larger grid
    adds its runs to those that are there.
    """

    preset: str | None = None
    """What to show: degradation (the default), vanishing, exploding or overfitting. Options change what it sets."""
    data: tuple[str, ...] = ("digits",)
    """Data sets, one page for all: digits (1,797 real 8x8 images that need no download), cifar10 …, or paths."""
    data_root: Path | None = None
    """Folder where the archives of a named data set lie, or are downloaded to."""
    image_size: int | None = None
    """Side in pixels of what the networks see; chosen from the images if not given."""
    train_images: tuple[int, ...] | None = None
    """Sizes of the training set, such as 50 500 0: subsets of the training split; 0 is all of it."""
    recipe: str | None = None
    """digits or cifar-paper; each data set's own if not given."""
    depths: tuple[int, ...] | None = None
    """Depths of the networks, each of the form 6n+2 (bottleneck: 9n+2); 20 56 if not given."""
    arms: tuple[str, ...] | None = None
    """Sides of the experiment: plain, residual (zero-padding shortcuts: not one parameter more), A, B, C (the paper's
    options), bottleneck; plain residual if not given."""
    seeds: int = 3
    """Repetitions, with seeds 0, 1, 2 …"""
    epochs: int | None = None
    """Passes over the training images; the recipe's own number if not given."""
    steps: int | None = None
    """Length of each run in steps, in place of epochs."""
    lr: float | None = None
    """Learning rate, in place of the recipe's."""
    norm: Literal["batch", "none"] | None = None
    """none leaves out batch normalisation."""
    init_scale: float | None = None
    """Factor on the initial weights of the convolutions, 1 if not given."""
    no_construct: bool = False
    """Leave out the construction: each shallow plain network, deepened by identity layers (section 1)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of convolutions, the same in every run."""
    out: Path | None = None
    """Folder for runs and report; studies/DATA or studies/DATA-PRESET if not given."""
    jobs: int | None = None
    """Runs at once, one thread each; as many as there are cores if not given. A Ray cluster decides itself."""
    executor: Literal["local", "ray"] = "local"
    """local: processes of this machine. ray: tasks of a Ray cluster, whose machines all see the folder of --out."""
    address: str | None = None
    """Of the Ray cluster that this machine belongs to: HOST:6379, or auto. If not given, RAY_ADDRESS says it, or the
    cluster is this machine alone."""
    gpus_per_run: float = 0.0
    """GPUs that each task of Ray asks for; less than 1 shares one."""
    fresh: bool = False
    """Delete the study in the folder and start over."""
    json: bool = False
    """Print results.json instead of a table."""


def run(options: Options) -> int:
    """Make the study's missing runs and its report; return 1 where a run of it failed."""
    from resnetlab.study.grid import run_study
    from resnetlab.study.local_pool import RunEnded, preload_torch
    from resnetlab.study.presets import preset_of
    from resnetlab.study.results import RUNS
    from resnetlab.system.allocator import use_huge_pages
    from resnetlab.system.cores import usable_cores

    preset = preset_of(options.preset)
    grid = grid_of(options, preset)
    check_executor(options)
    jobs = usable_cores() if options.jobs is None else options.jobs
    use_huge_pages()  # PyTorch reads it in the processes that are forked
    if options.executor == "local":
        preload_torch()
    from rich.console import Console  # these load while PyTorch does, in the process that runs are forked from

    from resnetlab.cli.report import print_results
    from resnetlab.study.display import StudyDisplay
    from resnetlab.study.report import write_report

    out = options.out or folder(options)
    console = Console(stderr=options.json, markup=False)
    failed: dict[str, str] = {}
    cluster = executor(options, console)
    try:
        with (
            closing(run_study(grid, out, num_workers=jobs, fresh=options.fresh, executor=cluster)) as events,
            StudyDisplay(console) as display,
        ):
            for event in events:
                display.see(event)
                if isinstance(event, RunEnded) and event.error is not None:
                    failed[event.job.out.name] = event.error
    except KeyboardInterrupt:
        console.print(f"stopped; finished runs are kept in {out}, the same command continues", soft_wrap=True)
        return 130
    rows: dict[str, Any] = {}
    if any((out / RUNS).glob("*/config.json")):  # else not one run got so far
        results = write_report(out)
        print_results(results, out, console, json_wanted=options.json)
        rows = {Path(row["directory"]).name: row for row in results["runs"]}
    failed |= failed_runs(grid, rows)
    if preset.may_diverge:
        failed = {name: error for name, error in failed.items() if rows.get(name, {}).get("status") != "diverged"}
    for name, error in failed.items():
        console.print(f"failed: {name}: {error}", style="red", soft_wrap=True, highlight=False)
    return 1 if failed else 0


def check_executor(options: Options) -> None:
    """Refuse options that do not go together.

    Raises:
        ConfigError: saying which.
    """
    gpus, jobs = options.gpus_per_run, options.jobs
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs must be at least 1, not {jobs}")
    if options.executor == "local" and (options.address is not None or gpus):
        raise ConfigError("--address and --gpus-per-run are for --executor ray")
    if options.executor == "ray" and jobs is not None:
        raise ConfigError("--jobs is for --executor local; a Ray cluster makes as many runs at once as it has room for")
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise ConfigError(f"gpus-per-run is a part of one GPU, such as 0.5, or a whole number of them, not {gpus:g}")


def executor(options: Options, console: "Console") -> "Executor | None":
    """Return what makes the runs, and tells `console` of each that is moved; `None` for processes of this machine."""
    if options.executor == "local":
        return None

    def make(jobs: "Sequence[RunTask]") -> "Generator[Event]":
        from resnetlab.study.display import task_label
        from resnetlab.study.local_pool import RunStarted
        from resnetlab.study.ray_pool import run_tasks

        begun: set[RunTask] = set()
        with closing(run_tasks(jobs, options.address, gpus=options.gpus_per_run)) as events:
            for event in events:
                if isinstance(event, RunStarted) and event.job in begun:
                    moved = f"{task_label(event.job)} lost its machine and goes on elsewhere from its last checkpoint"
                    console.print(moved, soft_wrap=True, highlight=False)
                if isinstance(event, RunStarted):
                    begun.add(event.job)
                yield event

    return make


def failed_runs(grid: "Grid", rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the grid's runs that ended without a result, by name, with their errors: a diverged one is not made again.

    `rows` are those of the report, by name.
    """
    from resnetlab.study.grid import run_name

    names = {run_name(config) for config in grid.runs()}
    names |= {run_name(after, before.model.depth) for before, after in grid.constructions()}
    return {name: rows[name]["error"] for name in names & rows.keys() if rows[name]["status"] != "done"}


def grid_of(options: Options, preset: "Preset") -> "Grid":
    """Return the runs that a preset means, with what the options say in place of it.

    Raises:
        ConfigError: for a value that cannot work.
    """
    from resnetlab.data.registry import detect_kind
    from resnetlab.study.grid import Grid, StudyData
    from resnetlab.training.recipes import recipe

    if options.train_images is not None and min(options.train_images, default=0) < 0:
        raise ConfigError(f"train-images must be at least 2, or 0 for all of them, not {min(options.train_images)}")
    given = None if options.train_images is None else tuple(size or None for size in options.train_images)
    sizes = preset.train_images if given is None else given
    epochs, steps = options.epochs, options.steps
    if epochs is None and steps is None:
        epochs, steps = preset.epochs, preset.steps
    root = None if options.data_root is None else str(options.data_root)
    sources = []
    for name in options.data:
        detect_kind(DataConfig(name, root))
        named = options.recipe or ("digits" if name == "digits" else "cifar-paper")
        way = recipe(named, epochs=epochs, steps=steps, lr=options.lr)
        sources += [
            StudyData(DataConfig(name, root, train_images=size, image_size=options.image_size), way) for size in sizes
        ]
    return Grid(
        sources=tuple(sources),
        depths=_or(options.depths, preset.depths),
        arms=_or(options.arms, preset.arms),
        num_seeds=options.seeds,
        precision=options.precision,
        norm=_or(options.norm, preset.norm),
        init_scale=_or(options.init_scale, preset.init_scale),
        constructs=preset.constructs and not options.no_construct,
    )


def folder(options: Options) -> Path:
    """Return the folder a study is written to where none is given: `studies/digits`, `studies/digits-vanishing`."""
    parts = ["+".join(Path(name).name for name in options.data), *([options.preset] if options.preset else [])]
    return Path("studies") / "-".join(parts)


def _or(given: Any, otherwise: Any) -> Any:
    return otherwise if given is None else given
