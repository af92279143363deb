"""Run directories into numbers: what a report is made from. No torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnetlab.config import RunConfig, read_config
from resnetlab.training.record import RecordError, read_record

RUNS = "runs"
"""The folder of a study that holds its run directories."""


@dataclass(frozen=True)
class Run:
    """One run directory, read."""

    directory: Path
    config: RunConfig
    status: str
    """`done`, `diverged`, `failed`, or `unfinished` (no last line: interrupted, or still going)."""
    start: dict[str, Any]
    """The record's `run` line; empty where the run never got so far."""
    epochs: tuple[dict[str, Any], ...]
    """The record's `epoch` lines."""
    result: dict[str, Any]
    """The record's `result` line; empty while unfinished."""

    @property
    def data(self) -> str:
        """Name of the data set; of a path its last part."""
        return Path(self.config.data.name).name

    @property
    def arm(self) -> str:
        """`plain` or `residual`."""
        return self.config.model.arm

    @property
    def depth(self) -> int:
        """Layers with weights."""
        return self.config.model.depth

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.config.seed

    @property
    def label(self) -> str:
        """What a person calls the run: `plain-56 seed 0`."""
        return f"{self.arm}-{self.depth} seed {self.seed}"

    def row(self) -> dict[str, Any]:
        """Return the run's line of `results.json` and `results.csv`; `None` where there is no number."""
        return {
            "data": self.data,
            "arm": self.arm,
            "depth": self.depth,
            "seed": self.seed,
            "status": self.status,
            "params": self.start.get("params"),
            "macs": self.start.get("macs"),
            "train_error_pct": self.result.get("train_error_pct"),
            "val_error_pct": self.result.get("val_error_pct"),
            "test_error_pct": self.result.get("test_error_pct"),
            "time_s": self.result.get("time_s"),
            "images_per_s": self.result.get("images_per_s"),
            "error": self.result.get("error"),
            "directory": f"{RUNS}/{self.directory.name}",
        }

    def curve(self) -> tuple[list[int], list[float]]:
        """Return steps and running training error, in %, over the whole run."""
        points = [epoch["curve"] for epoch in self.epochs]
        return [s for p in points for s in p["step"]], [e for p in points for e in p["train_error_pct"]]

    def validation(self) -> tuple[list[int], list[float]]:
        """Return steps and validation error, in %, at the end of each epoch."""
        return [epoch["step"] for epoch in self.epochs], [epoch["val_error_pct"] for epoch in self.epochs]


def read_run(directory: Path) -> Run:
    """Read one run directory.

    Raises:
        ConfigError: where its configuration is missing or damaged.
        RecordError: where its record is damaged; the message names file and line.
    """
    config = read_config(directory / "config.json")
    path = directory / "record.jsonl"
    lines = read_record(path) if path.exists() else []
    result = next((line for line in reversed(lines) if line["kind"] == "result"), {})
    try:
        return Run(
            directory=directory,
            config=config,
            status=result["status"] if result else "unfinished",
            start=next((line for line in lines if line["kind"] == "run"), {}),
            epochs=tuple(_epoch(line) for line in lines if line["kind"] == "epoch"),
            result=result,
        )
    except (KeyError, TypeError) as error:
        raise RecordError(f"{path}: a line lacks {error}") from error


def read_runs(out: Path) -> list[Run]:
    """Read every run of a study, ordered by data set, depth, arm and seed.

    Raises:
        ConfigError, RecordError: as `read_run`.
    """
    directories = sorted(path for path in (out / RUNS).glob("*") if path.is_dir())
    runs = [read_run(directory) for directory in directories if (directory / "config.json").exists()]
    return sorted(runs, key=lambda run: (run.data, run.depth, run.arm, run.seed))


def _epoch(line: dict[str, Any]) -> dict[str, Any]:
    """Return an epoch's line with what the report reads of it; a missing field is a `KeyError` here, not later."""
    curve = {name: line["curve"][name] for name in ("step", "train_error_pct")}
    return {**{name: line[name] for name in ("step", "val_error_pct")}, "curve": curve}
