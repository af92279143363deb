"""Run directories read into `Run` objects, from which a report is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnetlab.config import DataConfig, RunConfig, read_config
from resnetlab.data.registry import dataset_title
from resnetlab.study.arms import arm_of, arm_position
from resnetlab.training.config_changes import CONTINUED, TESTED_BEFORE
from resnetlab.training.run_files.record import RecordError, read_record_content
from resnetlab.training.run_files.record_chain import record_notes

RUNS = "runs"
"""Folder of a study that holds its run directories."""

MODEL = "model.safetensors"
"""Model file in a run directory."""

NAMELESS = ("", "..")
"""Last parts of the paths `.` and `..`, which say nothing."""

EPOCH_FIELDS = ("step", "val_error_pct")
CURVE_FIELDS = ("step", "loss", "train_error_pct")
LAYER_STATS_FIELDS = (
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
"""Fields that a report reads from the record's `signal` lines."""


@dataclass(frozen=True)
class Run:
    """Contents of one run directory, or the layer statistics of one model file."""

    directory: Path
    config: RunConfig
    """The configuration that the run was started with."""
    status: str
    """`done`, `diverged`, `failed`, `unfinished` (the record has no last line: interrupted or still running), or
    `measured` (a model file, not a run)."""
    start: dict[str, Any]
    """The record's `run` line; empty if the run ended before it wrote that line."""
    epochs: tuple[dict[str, Any], ...]
    """The record's `epoch` lines."""
    result: dict[str, Any]
    """The record's `result` line; empty while the run is unfinished."""
    layer_stats: tuple[dict[str, Any], ...] = ()
    """The record's `signal` lines: statistics of gradients and activations of every layer."""
    num_test_evaluations: int = 0
    """Evaluations on the test set: one when a run is done, one more each time it was continued after that."""
    changes: tuple[str, ...] = ()
    """Changes of the run when it was continued, as the record's warnings say it: its configuration, or the images of
    batch normalisation."""
    record_notes: tuple[str, ...] = ()
    """Sentences on the record itself: that it was cut, or has no checksums."""

    @property
    def num_skipped(self) -> int:
        """Training steps without an update, because their loss was not finite."""
        return self.result.get("skipped_steps") or 0

    @property
    def data(self) -> str:
        """Name of the data set; the last part of a path, also of `.` when the run started."""
        name = Path(self.config.data.name).name
        if name not in NAMELESS:
            return name
        return self.start.get("data", {}).get("name") or data_folder_name(self.config.data)

    @property
    def data_label(self) -> str:
        """Training images as a report names them: `digits`, `digits, 50 images`."""
        return self.data if self.train_images is None else f"{self.data}, {self.train_images:,} images"

    @property
    def arm(self) -> str:
        """Arm of the experiment: `plain`, `residual`, `A`, `B`, `C` or `bottleneck`, or one of them with `-capped`."""
        return arm_of(self.config)

    @property
    def depth(self) -> int:
        """Number of layers with weights."""
        return self.config.depth

    @property
    def architecture(self) -> str | None:
        """Name of an architecture other than ResNet; `None` for a ResNet."""
        return None if self.config.architecture is None else self.config.architecture.name

    @property
    def seed(self) -> int:
        """Random seed."""
        return self.config.seed

    @property
    def train_images(self) -> int | None:
        """Size of the subset of the training split that was used; `None` for all images."""
        return self.config.data.train_images

    @property
    def is_from_file(self) -> bool:
        """Whether the run started from a model file, as a deepened network does, instead of random weights."""
        return self.config.weights is not None

    @property
    def deepened_from(self) -> int | None:
        """Depth of the network that identity blocks were inserted into; `None` if the network was not deepened."""
        return self.start.get("start", {}).get("depth")

    @property
    def network(self) -> str:
        """Network as a report names it: `plain-56`, `plain-20→56` (deepened), `residual-56, 50 images`.

        An architecture other than ResNet has its name in front: `mlp-plain-32`.
        """
        return network_label(self.config, self.deepened_from)

    @property
    def label(self) -> str:
        """Run as a report names it: `plain-56 seed 0`."""
        return f"{self.network} seed {self.seed}"

    def row(self) -> dict[str, Any]:
        """Return the run's row of `results.json` and `results.csv`; unknown numbers are `None`."""
        return {
            "data": self.data,
            "arm": self.arm,
            "depth": self.depth,
            "train_images": self.train_images,
            "deepened_from": self.deepened_from,
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

    def train_curve(self) -> tuple[list[int], list[float]]:
        """Return steps and running training error, in %, over the whole run."""
        curves = [epoch["curve"] for epoch in self.epochs]
        steps = [step for curve in curves for step in curve["step"]]
        return steps, [error for curve in curves for error in curve["train_error_pct"]]

    def val_curve(self) -> tuple[list[int], list[float]]:
        """Return steps and validation error, in %, at the end of each epoch."""
        return [epoch["step"] for epoch in self.epochs], [epoch["val_error_pct"] for epoch in self.epochs]

    def losses(self) -> list[float]:
        """Return the finite values of the running loss over the whole run."""
        return [loss for epoch in self.epochs for loss in epoch["curve"]["loss"] if loss is not None]


def read_run(directory: Path) -> Run:
    """Read one run directory.

    Raises:
        ConfigError: if its configuration is missing or damaged.
        RecordError: if its record is damaged; the message gives file and line.
    """
    config = read_config(directory / "config.json")
    path = directory / "record.jsonl"
    content = read_record_content(path) if path.exists() else None
    lines = content.lines if content else []
    result = next((line for line in reversed(lines) if line["kind"] == "result"), {})
    try:
        return Run(
            directory=directory,
            config=config,
            status=result["status"] if result else "unfinished",
            start=next((line for line in lines if line["kind"] == "run"), {}),
            epochs=tuple(_read_epoch(line) for line in lines if line["kind"] == "epoch"),
            result=result,
            layer_stats=tuple(_select(line, LAYER_STATS_FIELDS) for line in lines if line["kind"] == "signal"),
            num_test_evaluations=_num_test_evaluations(lines, result),
            changes=tuple(message for message in _warnings(lines) if message.startswith(CONTINUED)),
            record_notes=record_notes(directory, content) if content else (),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path}: a line lacks {error}") from error


def read_runs(out: Path) -> list[Run]:
    """Read every run of a study, ordered by data set, depth, arm and seed.

    Raises:
        ConfigError, RecordError: as `read_run`.
    """
    directories = sorted(path for path in (out / RUNS).glob("*") if path.is_dir())
    runs = [read_run(directory) for directory in directories if (directory / "config.json").exists()]
    return sorted(runs, key=_sort_key)


def data_folder_name(data: DataConfig) -> str:
    """Return the name of a data set in names of folders: that of its path, also for `.`."""
    name = Path(data.name).name
    return name if name not in NAMELESS else dataset_title(data)


def network_label(config: RunConfig, deepened_from: int | None = None) -> str:
    """Return the name of a run's network in reports, which separates it from others of its arm and depth.

    Args:
        config: Configuration of the run.
        deepened_from: Depth before identity blocks were inserted; `None` if the network was not deepened.
    """
    images = "" if config.data.train_images is None else f", {config.data.train_images:,} images"
    before = "" if deepened_from is None else f"{deepened_from}→"
    file = " from a file" if config.weights and deepened_from is None else ""
    family = "" if config.architecture is None else f"{config.architecture.name}-"
    return f"{family}{arm_of(config)}-{before}{config.depth}{file}{images}"


def _num_test_evaluations(lines: Sequence[dict[str, Any]], result: dict[str, Any]) -> int:
    """Return how often the test set was evaluated; a run that goes on drops its result, and warns of it."""
    repeated = sum(message.startswith(TESTED_BEFORE) for message in _warnings(lines))
    return repeated + (result.get("test_error_pct") is not None)


def _warnings(lines: Sequence[dict[str, Any]]) -> list[str]:
    return [line["message"] for line in lines if line["kind"] == "warning"]


def _sort_key(run: Run) -> tuple[Any, ...]:
    is_subset = run.train_images is not None
    network = run.architecture or "", run.depth, arm_position(run.arm)
    return run.data, *network, run.is_from_file, not is_subset, run.train_images or 0, run.seed


def _read_epoch(line: dict[str, Any]) -> dict[str, Any]:
    curve = _select(line["curve"], CURVE_FIELDS)
    return {**_select(line, EPOCH_FIELDS), "lr": line.get("lr"), "curve": curve}


def _select(line: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields that a report reads; a missing one raises `KeyError` here, before any report is written."""
    return {name: line[name] for name in fields}
