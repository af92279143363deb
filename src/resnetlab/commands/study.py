"""`resnetlab study`: see degradation and its cure."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resnetlab.config import ConfigError, DataConfig


@dataclass(frozen=True)
class Options:
    """Train plain and residual networks of several depths and write a report of what depth does to each.

    The folder it writes holds everything; the same command continues a study that was stopped, and a larger grid
    adds its runs to those that are there.
    """

    data: str = "digits"
    """Data set: digits (1,797 real 8x8 images that need no download), cifar10 …, or the path of your own images."""
    data_root: Path | None = None
    """Folder where the archives of a named data set lie, or are downloaded to."""
    recipe: str | None = None
    """digits or cifar-paper; the data set's own if not given."""
    depths: tuple[int, ...] = (20, 56)
    """Depths of the networks, each of the form 6n+2."""
    arms: tuple[str, ...] = ("plain", "residual")
    """Sides of the experiment: plain, residual (zero-padding shortcuts: not one parameter more)."""
    seeds: int = 3
    """Repetitions, with seeds 0, 1, 2 …"""
    epochs: int | None = None
    """Passes over the training images; the recipe's own number if not given."""
    steps: int | None = None
    """Length of each run in steps, in place of epochs."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of convolutions, the same in every run."""
    out: Path | None = None
    """Folder for runs and report; studies/DATA if not given."""
    jobs: int | None = None
    """Runs at once, one thread each; as many as there are cores if not given."""
    fresh: bool = False
    """Delete the study in the folder and start over."""
    json: bool = False
    """Print results.json instead of a table."""


def run(options: Options) -> int:
    """Make the study's missing runs and its report; return 1 where a run of it failed."""
    from resnetlab.cores import usable_cores
    from resnetlab.data.catalogue import kind_of
    from resnetlab.memory import keep_large_pages
    from resnetlab.study.grid import Grid, run_name, run_study
    from resnetlab.study.pool import Ended, warm_up
    from resnetlab.training.recipes import recipe

    data = DataConfig(options.data, None if options.data_root is None else str(options.data_root))
    kind_of(data)
    name = options.recipe or ("digits" if options.data == "digits" else "cifar-paper")
    grid = Grid(
        data=data,
        depths=options.depths,
        arms=options.arms,
        num_seeds=options.seeds,
        recipe=recipe(name, epochs=options.epochs, steps=options.steps),
        precision=options.precision,
    )
    jobs = usable_cores() if options.jobs is None else options.jobs
    if jobs < 1:
        raise ConfigError(f"jobs must be at least 1, not {jobs}")
    keep_large_pages()  # PyTorch reads it in the processes that are forked
    warm_up()
    from rich.console import Console  # these load while PyTorch does, in the process that runs are forked from

    from resnetlab.commands.report import print_results
    from resnetlab.study.display import Display
    from resnetlab.study.report import write_report

    out = options.out or Path("studies") / Path(options.data).name
    console = Console(stderr=options.json)
    failed: dict[str, str] = {}
    try:
        with (
            closing(run_study(grid, out, num_workers=jobs, fresh=options.fresh)) as events,
            Display(console) as display,
        ):
            for event in events:
                display.see(event)
                if isinstance(event, Ended) and event.error is not None:
                    failed[run_name(event.job.config)] = event.error
    except KeyboardInterrupt:
        console.print(f"stopped; finished runs are kept in {out}, the same command continues", soft_wrap=True)
        return 130
    results = write_report(out)
    print_results(results, out, console, json_wanted=options.json)
    names = {run_name(config) for config in grid.runs()}
    before = {Path(row["directory"]).name: row["error"] for row in results["runs"] if row["status"] != "done"}
    failed |= {name: error for name, error in before.items() if name in names}  # diverged runs are not made again
    for name, error in failed.items():
        console.print(f"failed: {name}: {error}", style="red", soft_wrap=True, highlight=False)
    return 1 if failed else 0
