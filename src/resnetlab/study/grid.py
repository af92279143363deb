"""Grid of a study (data x depth x arm x seed): its runs, the runs that are already done, and execution of the rest."""

import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from resnetlab.config import ConfigError, DataConfig, ModelConfig, Norm, Precision, Recipe, RunConfig
from resnetlab.data.registry import dataset_title
from resnetlab.serialization import differences
from resnetlab.study.arms import CAPPED, MAX_UPDATE, Family, arm_network, arm_norm, arm_of, arm_recipe, family_of
from resnetlab.study.executors.local_pool import Event, RunEnded, RunStarted, RunTask, run_tasks
from resnetlab.study.image_versions import check_image_versions
from resnetlab.study.results import MODEL, RUNS, Run, data_folder_name, read_run, read_runs
from resnetlab.system.dir_lock import is_locked, lock_dir
from resnetlab.training.recipes import for_network
from resnetlab.training.run_files.record import Record

STUDY_FILES = (RUNS, "figures", "results.csv", "comparisons.csv", "results.json", "report.html")
"""Files and folders that a study writes; `fresh` deletes only these."""

IMAGENET_DEPTHS = (18, 34)
"""Depths of a study of ImageNet networks, unless others are given: those of Table 2."""

Executor = Callable[[Sequence[RunTask]], Generator[Event]]
"""Executes tasks and yields their events."""


@dataclass(frozen=True)
class StudyData:
    """A data set and the training recipe for it."""

    data: DataConfig
    recipe: Recipe


@dataclass(frozen=True)
class Grid:
    """Runs of a study: every data set with every depth, arm and seed.

    Raises:
        ConfigError: for an axis that is empty, has a value twice, or has a value that does not exist; for a recipe with
            `max_update`, which only control arms have.
    """

    datasets: tuple[StudyData, ...]
    depths: tuple[int, ...]
    arms: tuple[str, ...]
    num_seeds: int
    family: Family = "cifar"
    """CIFAR networks (6n+2 layers) or ImageNet networks (Table 1)."""
    precision: Precision = "fp32"
    """Precision of convolutions. No benchmark selects it: runs that share the cores would disturb the timings."""
    norm: Norm = "batch"
    """Normalisation of every network; `none` gives networks as they were before batch normalisation."""
    init_scale: float = 1.0
    """Factor on the initial weights of every network's convolutions, above 0."""
    identity_init: bool = False
    """Also deepen each trained shallowest plain network to the greatest depth by identity layers, and train it on."""

    def __post_init__(self) -> None:
        _check_axis("depth", self.depths)
        _check_axis("arm", self.arms)
        _check_axis("data", [(dataset_title(dataset.data), dataset.data.train_images) for dataset in self.datasets])
        if limited := [dataset.recipe for dataset in self.datasets if dataset.recipe.max_update is not None]:
            example = f"{self.arms[0].removesuffix(CAPPED)}{CAPPED}"
            raise ConfigError(
                f"max_update={limited[0].max_update:g} in the recipe of a study: leave it out, and name the arm "
                f"{example}, which limits each step to {MAX_UPDATE:g}"
            )
        if {"residual", "A"} <= set(self.arms):
            raise ConfigError("arms residual and A are the same network, option A; name one of them")
        if self.num_seeds < 1:
            raise ConfigError(f"seeds is the number of repetitions and must be at least 1, not {self.num_seeds}")
        for arm in self.arms:
            for depth in self.depths:
                self._network(arm, depth)

    def runs(self) -> list[RunConfig]:
        """Return all configurations, deepest first: long runs start first, so that all cores finish together."""
        return [
            self._run(arm, depth, dataset, seed)
            for depth in sorted(self.depths, reverse=True)
            for seed in range(self.num_seeds)
            for dataset in self.datasets
            for arm in self.arms
        ]

    def identity_init_pairs(self) -> Iterator[tuple[RunConfig, RunConfig]]:
        """Yield each run whose network is deepened, and the run that trains the deepened network.

        The second configuration still lacks its `weights`.

        Paper: section 1 (the constructed solution).
        """
        shallow, deep = min(self.depths), max(self.depths)
        if not self.identity_init or "plain" not in self.arms or shallow == deep:
            return
        for seed in range(self.num_seeds):
            for dataset in self.datasets:
                yield self._run("plain", shallow, dataset, seed), self._run("plain", deep, dataset, seed)

    def expected(self, run: Run) -> RunConfig | None:
        """Return the configuration of a run with the settings of this grid, whatever its depth, arm and seed.

        `None` for a network that is no ResNet, or of another family.
        """
        if run.config.architecture is not None or family_of(run.config.model) != self.family:
            return None
        dataset = next((d for d in self.datasets if data_folder_name(d.data) == run.data), None)
        return replace(
            run.config,
            model=replace(run.config.model, norm=arm_norm(run.arm, self.norm), init_scale=self.init_scale),
            recipe=arm_recipe(run.arm, for_network(dataset.recipe, run.config.model)) if dataset else run.config.recipe,
            data=replace(dataset.data, train_images=run.train_images) if dataset else run.config.data,
            precision=self.precision,
        )

    def _network(self, arm: str, depth: int) -> ModelConfig:
        return arm_network(arm, depth, family=self.family, norm=self.norm, init_scale=self.init_scale)

    def _run(self, arm: str, depth: int, dataset: StudyData, seed: int) -> RunConfig:
        model = self._network(arm, depth)
        return RunConfig(
            model=model,
            data=dataset.data,
            recipe=arm_recipe(arm, for_network(dataset.recipe, model)),
            seed=seed,
            precision=self.precision,
            layout="channels_last",
            compile="off",
        )


class StudyGrid(Protocol):
    """The runs of a study."""

    def runs(self) -> list[RunConfig]:
        """Return all configurations, those that take longest first."""
        ...

    def identity_init_pairs(self) -> Iterator[tuple[RunConfig, RunConfig]]:
        """Yield each run whose network is deepened, and the run that trains the deepened network."""
        ...

    def expected(self, run: Run) -> RunConfig | None:
        """Return the configuration of a run with the settings of this grid; `None` if it has no such networks."""
        ...


@dataclass(frozen=True)
class StudyPlan:
    """Tasks that a study will execute, and the number of finished runs that it reuses."""

    tasks: Sequence[RunTask]
    num_reused: int


def run_study(
    grid: StudyGrid,
    out: Path,
    *,
    num_workers: int,
    fresh: bool = False,
    executor: Executor | None = None,
    is_remote: bool = False,
) -> Generator[StudyPlan | Event]:
    """Execute the grid's runs that are not in the folder yet; yield the plan, then events.

    Closing the iterator early stops the workers. Finished runs remain, and the next call executes the others. A run
    with a checkpoint resumes from it, and a failed run is repeated. A diverged run would diverge again, so it is not
    repeated.

    Args:
        grid: The runs of the study.
        out: Folder of the study.
        num_workers: Runs at once, if `executor` is not given.
        fresh: Delete the study in the folder first.
        executor: Executes tasks; a pool of processes on this machine if not given.
        is_remote: Whether other machines train: they may have the images, and this one none.

    Raises:
        ConfigError: if `out` cannot be written, is in use, or holds runs with other settings or on other images
            (without `fresh`); if the data of runs to make cannot be trained on. With `fresh`, the study then remains.
        RecordError: if a record in `out` is damaged.
    """
    with lock_dir(out, "study"):
        existing = {} if fresh else {run.directory.name: run for run in read_runs(out)}
        _check_settings(existing.values(), grid, out)
        first = [RunTask(config, out / RUNS / run_name(config)) for config in grid.runs()]
        second = [_deepened_task(shallow, deep, out) for shallow, deep in grid.identity_init_pairs()]
        pending, deepened = (
            [task for task in tasks if not _is_complete(existing.get(task.out.name))] for tasks in (first, second)
        )
        ended = [run for run in existing.values() if _is_complete(run)]
        if not is_remote:
            _check_data(task.config.data for task in pending)
            check_image_versions(ended, [task.config for task in (*pending, *deepened)], out)
        if fresh:
            _delete_study(out)
        for task in (*pending, *deepened):
            # The last worker of a killed study may still hold the lock of its run.
            if not (task.out / "checkpoint").exists() and not is_locked(task.out):
                shutil.rmtree(task.out, ignore_errors=True)
        yield StudyPlan([*pending, *deepened], len(first) + len(second) - len(pending) - len(deepened))
        execute = executor or (lambda tasks: run_tasks(tasks, num_workers))
        yield from _with_failures_recorded(execute(pending))
        ready = [task for task in deepened if Path(task.config.weights or "").exists()]
        yield from _with_failures_recorded(execute(ready))
        for task in deepened:
            if task not in ready:
                yield RunStarted(task)
                yield RunEnded(task, f"cannot start from {task.config.weights}: that run did not finish")


def default_recipe(data: str, family: Family = "cifar") -> str:
    """Return the name of the recipe of a study's data set: `digits` for digits, else that of the paper."""
    return "digits" if data == "digits" else f"{family}-paper"


def run_name(config: RunConfig, deepened_from: int | None = None) -> str:
    """Return the directory name of a run: `digits-plain-56-seed0`, or `…-56-from-20-…` if deepened from 20 layers.

    An architecture other than ResNet has its name before the arm: `digits-mlp-plain-32-seed0`.
    """
    family = [] if config.architecture is None else [config.architecture.name]
    parts = [data_folder_name(config.data), *family, arm_of(config), str(config.depth)]
    parts += [] if config.data.train_images is None else [f"{config.data.train_images}images"]
    parts += [] if deepened_from is None else [f"from-{deepened_from}"]
    return "-".join([*parts, f"seed{config.seed}"])


def _deepened_task(shallow: RunConfig, deep: RunConfig, out: Path) -> RunTask:
    config = replace(deep, weights=str(out.resolve() / RUNS / run_name(shallow) / MODEL))
    return RunTask(config, out / RUNS / run_name(config, shallow.model.depth), shallow.model.depth)


def _check_data(data: Iterable[DataConfig]) -> None:
    """Raise before the runs start if their data cannot be trained on: each of them would fail.

    Raises:
        ConfigError: as for `check_dataset`.
    """
    from resnetlab.data.list_dataset import check_dataset  # a study that reuses all runs does not need it

    for config in dict.fromkeys(data):
        check_dataset(config)


def _is_complete(run: Run | None) -> bool:
    return run is not None and run.status in ("done", "diverged")


def _with_failures_recorded(events: Iterable[Event]) -> Iterator[Event]:
    """Pass events on, and write the cause of a failure into the record if the run itself could not."""
    for event in events:
        if isinstance(event, RunEnded) and event.error is not None:
            _record_failure(event)
        yield event


def _record_failure(event: RunEnded) -> None:
    if not (event.task.out / "config.json").exists() or read_run(event.task.out).status != "unfinished":
        return  # the run has recorded its failure, or it failed before it wrote its configuration
    with suppress(OSError), Record(event.task.out / "record.jsonl") as record:  # the disk may be full
        record.write("result", status="failed", error=event.error)


def _check_axis(axis: str, values: Sequence[object]) -> None:
    if not values:
        raise ConfigError(f"no {axis} given; name at least one with --{axis}{'' if axis == 'data' else 's'}")
    repeated = [value for value in values if values.count(value) > 1]
    if repeated:
        name = repeated[0][0] if isinstance(repeated[0], tuple) else repeated[0]
        raise ConfigError(f"{axis} {name} is given twice; name each {axis} once")


def _check_settings(runs: Iterable[Run], grid: StudyGrid, out: Path) -> None:
    """Raise if a run in the folder cannot be compared with the grid's: other networks, recipe, images or precision."""
    for run in runs:
        expected = grid.expected(run)
        changed = ["other networks"] if expected is None else differences(run.config, expected)
        if changed:
            raise ConfigError(
                f"{out} holds a study with other settings ({'; '.join(changed)}); "
                "add --fresh to start over, or give another folder with --out"
            )


def _delete_study(out: Path) -> None:
    for name in STUDY_FILES:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
