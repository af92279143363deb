"""Depth x arm x seed: which runs a study has, which are there already, and making the others."""

import shutil
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from resnetlab.claim import claimed
from resnetlab.config import ConfigError, DataConfig, ModelConfig, Precision, Recipe, RunConfig, Shortcut
from resnetlab.configjson import differences
from resnetlab.models.zoo import IMAGENET, model_config
from resnetlab.study.pool import Ended, Event, Job, run_jobs
from resnetlab.study.results import RUNS, Run, read_run, read_runs
from resnetlab.training.recipes import for_network
from resnetlab.training.record import Record

ARMS: dict[str, Shortcut] = {"plain": "none", "residual": "pad"}
"""The sides of the experiment; option A, so that the residual arm has not one parameter more (section 4.2)."""

MADE_BY_A_STUDY = (RUNS, "figures", "results.csv", "results.json", "report.html")
"""What a study writes into its folder, and what starting afresh deletes; nothing else there is touched."""


@dataclass(frozen=True)
class Grid:
    """The runs of a study: every depth with every arm and every seed, all by one recipe.

    Raises:
        ConfigError: for an axis that is empty, names something twice, or names something that does not exist.
    """

    data: DataConfig
    depths: tuple[int, ...]
    arms: tuple[str, ...]
    num_seeds: int
    recipe: Recipe
    precision: Precision = "fp32"
    """Nothing is measured in a study: runs that share the cores would disturb each other's figures."""

    def __post_init__(self) -> None:
        _each_once("depth", self.depths)
        _each_once("arm", self.arms)
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown:
            raise ConfigError(f"arm {unknown[0]!r} is unknown; known: {', '.join(ARMS)}")
        if self.num_seeds < 1:
            raise ConfigError(f"seeds is the number of repetitions and must be at least 1, not {self.num_seeds}")
        for arm in self.arms:
            for depth in self.depths:
                network(arm, depth)

    def runs(self) -> list[RunConfig]:
        """Return the configurations, deepest first: the long runs start first, so that the cores end together."""
        return [
            RunConfig(
                model := network(arm, depth),
                self.data,
                for_network(self.recipe, model),
                seed,
                precision=self.precision,
                layout="channels_last",
                compile="off",
            )
            for depth in sorted(self.depths, reverse=True)
            for seed in range(self.num_seeds)
            for arm in self.arms
        ]


@dataclass(frozen=True)
class Planned:
    """A study knows what it has to do: runs to make, and how many are there already."""

    jobs: Sequence[Job]
    num_reused: int


def network(arm: str, depth: int) -> ModelConfig:
    """Return the CIFAR network (6n+2 layers) that stands on one side of the experiment.

    Raises:
        ConfigError: for a depth that does not fit; the message names the nearest that do.
    """
    family = "plain" if arm == "plain" else "resnet"
    suffix = "-cifar" if depth in IMAGENET else ""
    return model_config(f"{family}{depth}{suffix}", shortcut=ARMS[arm])


def run_study(grid: Grid, out: Path, *, num_workers: int, fresh: bool = False) -> Generator[Planned | Event]:
    """Make the grid's runs that are not in the folder yet; yield the plan, then what happens as it happens.

    Finished runs stay whatever comes: closing the iterator early stops the workers and leaves the rest to the next
    call. A run that has a checkpoint goes on from there; one that failed is tried again; one that diverged would
    diverge again, and stays.

    Raises:
        ConfigError: where `out` cannot be written, is in use, or holds runs of another recipe (without `fresh`).
        RecordError: where a record there is damaged.
    """
    with claimed(out, "study"):
        if fresh:
            _clear(out)
        there = {run.directory.name: run for run in read_runs(out)}
        _refuse_another_recipe(there.values(), grid, out)
        jobs = [Job(config, out / RUNS / run_name(config)) for config in grid.runs()]
        pending = [job for job in jobs if not _is_settled(there.get(job.out.name))]
        for job in pending:
            if not (job.out / "checkpoint").exists():
                shutil.rmtree(job.out, ignore_errors=True)
        yield Planned(pending, len(jobs) - len(pending))
        for event in run_jobs(pending, num_workers):
            if isinstance(event, Ended) and event.error is not None:
                _note_failure(event)
            yield event


def run_name(config: RunConfig) -> str:
    """Return the name of a run's directory in a study, `digits-plain-56-seed0`."""
    return f"{Path(config.data.name).name}-{config.model.arm}-{config.model.depth}-seed{config.seed}"


def _is_settled(run: Run | None) -> bool:
    return run is not None and run.status in ("done", "diverged")


def _note_failure(event: Ended) -> None:
    """Write the cause into the record where the run itself could not: it was killed, or never got so far."""
    if not (event.job.out / "config.json").exists() or read_run(event.job.out).status != "unfinished":
        return
    with suppress(OSError), Record(event.job.out / "record.jsonl") as record:  # a full disk is told all the same
        record.write("result", status="failed", error=event.error)


def _each_once(axis: str, values: Sequence[object]) -> None:
    if not values:
        raise ConfigError(f"no {axis} given; name at least one with --{axis}s")
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise ConfigError(f"{axis} {twice[0]} is given twice; name each {axis} once")


def _refuse_another_recipe(runs: Iterable[Run], grid: Grid, out: Path) -> None:
    for run in runs:
        wanted = replace(
            run.config,
            recipe=for_network(grid.recipe, run.config.model),
            data=grid.data if run.data == Path(grid.data.name).name else run.config.data,
            precision=grid.precision,
        )
        changed = differences(run.config, wanted)
        if changed:
            raise ConfigError(
                f"{out} holds a study made otherwise ({'; '.join(changed)}); "
                "add --fresh to start over, or choose another folder with --out"
            )


def _clear(out: Path) -> None:
    for name in MADE_BY_A_STUDY:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
