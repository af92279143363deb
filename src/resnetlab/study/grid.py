"""Data x depth x arm x seed: which runs a study has, which are there already, and making the others."""

import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from resnetlab.config import ConfigError, DataConfig, ModelConfig, Norm, Precision, Recipe, RunConfig
from resnetlab.data.registry import dataset_title
from resnetlab.serialization import differences
from resnetlab.study.arms import arm_network, arm_of
from resnetlab.study.local_pool import Event, RunEnded, RunStarted, RunTask, run_tasks
from resnetlab.study.results import MODEL, RUNS, Run, read_run, read_runs
from resnetlab.system.dir_lock import is_locked, lock_dir
from resnetlab.training.recipes import for_network
from resnetlab.training.record import Record

MADE_BY_A_STUDY = (RUNS, "figures", "results.csv", "results.json", "report.html")
"""What a study writes into its folder, and what starting afresh deletes; nothing else there is touched."""


Executor = Callable[[Sequence[RunTask]], Generator[Event]]
"""Makes runs, and yields what happens as it happens."""


@dataclass(frozen=True)
class StudyData:
    """Images, and how networks are trained on them."""

    data: DataConfig
    recipe: Recipe


@dataclass(frozen=True)
class Grid:
    """The runs of a study: every source with every depth, arm and seed.

    Raises:
        ConfigError: for an axis that is empty, names something twice, or names something that does not exist.
    """

    sources: tuple[StudyData, ...]
    depths: tuple[int, ...]
    arms: tuple[str, ...]
    num_seeds: int
    precision: Precision = "fp32"
    """Nothing is measured in a study: runs that share the cores would disturb each other's figures."""
    norm: Norm = "batch"
    """Of every network; `none` is how networks were before batch normalisation."""
    init_scale: float = 1.0
    """Factor on the initial weights of every network's convolutions, above 0."""
    constructs: bool = False
    """Also deepen each trained shallowest plain network to the deepest by identity layers, and train it further."""

    def __post_init__(self) -> None:
        _each_once("depth", self.depths)
        _each_once("arm", self.arms)
        _each_once("data", [(dataset_title(source.data), source.data.train_images) for source in self.sources])
        if {"residual", "A"} <= set(self.arms):
            raise ConfigError("arms residual and A are the same network, option A; name one of them")
        if self.num_seeds < 1:
            raise ConfigError(f"seeds is the number of repetitions and must be at least 1, not {self.num_seeds}")
        for arm in self.arms:
            for depth in self.depths:
                self._network(arm, depth)

    def runs(self) -> list[RunConfig]:
        """Return the configurations, deepest first: the long runs start first, so that the cores end together."""
        return [
            self._run(arm, depth, source, seed)
            for depth in sorted(self.depths, reverse=True)
            for seed in range(self.num_seeds)
            for source in self.sources
            for arm in self.arms
        ]

    def constructions(self) -> Iterator[tuple[RunConfig, RunConfig]]:
        """Yield each run whose network is to be deepened, and the run that goes on from there, lacking its `weights`.

        Paper: section 1, the solution by construction.
        """
        shallow, deep = min(self.depths), max(self.depths)
        if not self.constructs or "plain" not in self.arms or shallow == deep:
            return
        for seed in range(self.num_seeds):
            for source in self.sources:
                yield self._run("plain", shallow, source, seed), self._run("plain", deep, source, seed)

    def _network(self, arm: str, depth: int) -> ModelConfig:
        return arm_network(arm, depth, norm=self.norm, init_scale=self.init_scale)

    def _run(self, arm: str, depth: int, source: StudyData, seed: int) -> RunConfig:
        model = self._network(arm, depth)
        return RunConfig(
            model,
            source.data,
            for_network(source.recipe, model),
            seed,
            precision=self.precision,
            layout="channels_last",
            compile="off",
        )


@dataclass(frozen=True)
class StudyPlan:
    """A study knows what it has to do: runs to make, and how many are there already."""

    jobs: Sequence[RunTask]
    num_reused: int


def run_study(
    grid: Grid, out: Path, *, num_workers: int, fresh: bool = False, executor: Executor | None = None
) -> Generator[StudyPlan | Event]:
    """Make the grid's runs that are not in the folder yet; yield the plan, then what happens as it happens.

    Finished runs stay whatever comes: closing the iterator early stops the workers and leaves the rest to the next
    call. A run that has a checkpoint goes on from there; one that failed is tried again; one that diverged would
    diverge again, and stays. Jobs go to `executor`, a pool of processes on this machine if not given.

    Raises:
        ConfigError: where `out` cannot be written, is in use, or holds runs of another recipe (without `fresh`).
        RecordError: where a record there is damaged.
    """
    with lock_dir(out, "study"):
        if fresh:
            _clear(out)
        there = {run.directory.name: run for run in read_runs(out)}
        _refuse_another_recipe(there.values(), grid, out)
        first = [RunTask(config, out / RUNS / run_name(config)) for config in grid.runs()]
        then = [_deepened(before, after, out) for before, after in grid.constructions()]
        pending, later = ([job for job in jobs if not _is_settled(there.get(job.out.name))] for jobs in (first, then))
        for job in (*pending, *later):
            if not (job.out / "checkpoint").exists() and not is_locked(job.out):  # by a killed study's last worker
                shutil.rmtree(job.out, ignore_errors=True)
        yield StudyPlan([*pending, *later], len(first) + len(then) - len(pending) - len(later))
        run = executor or (lambda jobs: run_tasks(jobs, num_workers))
        yield from _noted(run(pending))
        possible = [job for job in later if Path(job.config.weights or "").exists()]
        yield from _noted(run(possible))
        for job in later:
            if job not in possible:
                yield RunStarted(job)
                yield RunEnded(job, f"there is no {job.config.weights} to start from: that run did not finish")


def run_name(config: RunConfig, origin: int | None = None) -> str:
    """Return the name of a run's directory in a study: `digits-plain-56-seed0`, or `…-56-from-20-…` if deepened."""
    parts = [Path(config.data.name).name, arm_of(config.model), str(config.model.depth)]
    parts += [] if config.data.train_images is None else [f"{config.data.train_images}images"]
    parts += [] if origin is None else [f"from-{origin}"]
    return "-".join([*parts, f"seed{config.seed}"])


def _deepened(before: RunConfig, after: RunConfig, out: Path) -> RunTask:
    config = replace(after, weights=str(out.resolve() / RUNS / run_name(before) / MODEL))
    return RunTask(config, out / RUNS / run_name(config, before.model.depth), before.model.depth)


def _is_settled(run: Run | None) -> bool:
    return run is not None and run.status in ("done", "diverged")


def _noted(events: Iterable[Event]) -> Iterator[Event]:
    """Pass events on; write the cause of a failure into the record where the run itself could not."""
    for event in events:
        if isinstance(event, RunEnded) and event.error is not None:
            _note_failure(event)
        yield event


def _note_failure(event: RunEnded) -> None:
    if not (event.job.out / "config.json").exists() or read_run(event.job.out).status != "unfinished":
        return  # it was told already, or it never got so far
    with suppress(OSError), Record(event.job.out / "record.jsonl") as record:  # a full disk is told all the same
        record.write("result", status="failed", error=event.error)


def _each_once(axis: str, values: Sequence[object]) -> None:
    if not values:
        raise ConfigError(f"no {axis} given; name at least one with --{axis}{'' if axis == 'data' else 's'}")
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        name = twice[0][0] if isinstance(twice[0], tuple) else twice[0]
        raise ConfigError(f"{axis} {name} is given twice; name each {axis} once")


def _refuse_another_recipe(runs: Iterable[Run], grid: Grid, out: Path) -> None:
    """Refuse a folder whose runs cannot stand beside the grid's: other networks, another recipe, other images."""
    sources = {Path(source.data.name).name: source for source in grid.sources}
    for run in runs:
        source = sources.get(run.data)
        wanted = replace(
            run.config,
            model=replace(run.config.model, norm=grid.norm, init_scale=grid.init_scale),
            recipe=for_network(source.recipe, run.config.model) if source else run.config.recipe,
            data=replace(source.data, train_images=run.train_images) if source else run.config.data,
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
