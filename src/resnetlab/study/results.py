"""Run directories into numbers: what a report is made from. No torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnetlab.config import RunConfig, read_config
from resnetlab.study.arms import ARMS, arm_of
from resnetlab.training.record import RecordError, read_record

RUNS = "runs"
"""The folder of a study that holds its run directories."""

MODEL = "model.safetensors"
"""The model file of a run directory."""


@dataclass(frozen=True)
class Run:
    """One run directory, read."""

    directory: Path
    config: RunConfig
    status: str
    """`done`, `diverged`, `failed`, `unfinished` (no last line: interrupted, or still going), or `measured` (a model
    file, not a run)."""
    start: dict[str, Any]
    """The record's `run` line; empty where the run never got so far."""
    epochs: tuple[dict[str, Any], ...]
    """The record's `epoch` lines."""
    result: dict[str, Any]
    """The record's `result` line; empty while unfinished."""
    signals: tuple[dict[str, Any], ...] = ()
    """The record's `signal` lines."""

    @property
    def data(self) -> str:
        """Name of the data set; of a path its last part."""
        return Path(self.config.data.name).name

    @property
    def source(self) -> str:
        """What a person calls the training images: `digits`, `digits, 50 images`."""
        return self.data if self.train_images is None else f"{self.data}, {self.train_images:,} images"

    @property
    def arm(self) -> str:
        """The side of the experiment: `plain`, `residual`, `A`, `B`, `C` or `bottleneck`."""
        return arm_of(self.config.model)

    @property
    def depth(self) -> int:
        """Layers with weights."""
        return self.config.model.depth

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.config.seed

    @property
    def train_images(self) -> int | None:
        """Images it was trained on, where they are a part of the training split; else `None`."""
        return self.config.data.train_images

    @property
    def is_from_file(self) -> bool:
        """It started from a model file, as a deepened network does, not from random weights."""
        return self.config.weights is not None

    @property
    def origin(self) -> int | None:
        """The depth of the network that it started from, where identity blocks were inserted; else `None`."""
        return self.start.get("start", {}).get("depth")

    @property
    def network(self) -> str:
        """What a person calls the network: `plain-56`, `plain-20→56` (deepened), `residual-56, 50 images`."""
        return network_label(self.config, self.origin)

    @property
    def label(self) -> str:
        """What a person calls the run: `plain-56 seed 0`."""
        return f"{self.network} seed {self.seed}"

    def row(self) -> dict[str, Any]:
        """Return the run's line of `results.json` and `results.csv`; `None` where there is no number."""
        return {
            "data": self.data,
            "arm": self.arm,
            "depth": self.depth,
            "train_images": self.train_images,
            "deepened_from": self.origin,
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
            signals=tuple(_signal(line) for line in lines if line["kind"] == "signal"),
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
    return sorted(runs, key=_place)


def network_label(config: RunConfig, origin: int | None = None) -> str:
    """Return what a person calls the network of a run, with what sets it apart from others of its arm and depth.

    `origin` is the depth that a deepened network had before.
    """
    images = "" if config.data.train_images is None else f", {config.data.train_images:,} images"
    before = "" if origin is None else f"{origin}→"
    file = " from a file" if config.weights and origin is None else ""
    return f"{arm_of(config.model)}-{before}{config.model.depth}{file}{images}"


def _place(run: Run) -> tuple[Any, ...]:
    few = run.train_images is not None
    return run.data, run.depth, list(ARMS).index(run.arm), run.is_from_file, not few, run.train_images or 0, run.seed


def _epoch(line: dict[str, Any]) -> dict[str, Any]:
    """Return an epoch's line with what the report reads of it; a missing field is a `KeyError` here, not later."""
    curve = {name: line["curve"][name] for name in ("step", "loss", "train_error_pct")}
    return {**{name: line[name] for name in ("step", "val_error_pct")}, "curve": curve}


def _signal(line: dict[str, Any]) -> dict[str, Any]:
    """Return a signal's line with what the report reads of it."""
    names = (
        "step",
        "lr",
        "loss",
        "layers",
        "kernels",
        "grad_norm",
        "grad_to_weight",
        "response_std",
        "activation_var",
        "dead_relu_pct",
        "blocks",
        "residual_ratio",
    )
    return {name: line[name] for name in names}
