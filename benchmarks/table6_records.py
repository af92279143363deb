"""The runs of `table6.py` and their records: one JSON file for each run that has started."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnetlab.literature.paper import CIFAR, CIFAR_DEEP
from resnetlab.system.atomic_files import write_atomic

ENDED = ("done", "diverged")
"""Status of a run that is not continued."""
BROKEN = ("failed", "damaged")
"""Status of a run that the same command may not be able to continue."""


@dataclass(frozen=True)
class Job:
    """One training run."""

    network: str
    recipe: str
    precision: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the run directory and of the record."""
        return f"{self.network}-{self.recipe}-{self.precision}-seed{self.seed}"


def log_of(out: Path) -> Path:
    """Return the file with the output of a run."""
    return out.with_name(f"{out.name}.log")


def read_record(path: Path) -> dict[str, Any]:
    """Return a record; its status is `missing` if there is none, and `damaged` if it cannot be read."""
    try:
        return json.loads(path.read_text()) if path.exists() else {"status": "missing"}
    except ValueError as error:
        return {"status": "damaged", "error": f"{path}: cannot be read ({error}); delete it"}


def write_record(job: Job, options: argparse.Namespace, *, has_failed: bool = False) -> dict[str, Any]:
    """Write the record of a run that has started, and return it; the record of a run that has ended stays as it is.

    Args:
        job: The run.
        options: With the folders of runs and records.
        has_failed: Whether the run's process ended by itself with an error, which is the last line of its output.
    """
    from resnetlab.config import ConfigError
    from resnetlab.training.run_files.record import RecordError

    path, out = options.records / f"{job.name}.json", options.out / job.name
    before = read_record(path)
    if before["status"] in ENDED:
        return before
    if before["status"] == "damaged":
        return _unread(job, "damaged", before["error"])
    lines = log_of(out).read_text(errors="replace").splitlines() if has_failed and log_of(out).exists() else []
    if not (out / "config.json").exists():
        return _unread(job, "failed", " ".join(lines[-1:])) if has_failed else _unread(job, "missing", None)
    try:
        record = _make_record(job, options)
    except (ConfigError, RecordError) as error:
        return _unread(job, "damaged", str(error))
    if has_failed and record["status"] == "unfinished":
        record |= {"status": "failed", "error": " ".join(lines[-1:])}
    options.records.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(record, indent=1) + "\n")
    return record


def _unread(job: Job, status: str, error: str | None) -> dict[str, Any]:
    """Return what is known of a run that has no files, or damaged ones; it is not written."""
    return {**asdict(job), "status": status, "step": 0, "test_error_pct": None, "error": error}


def _make_record(job: Job, options: argparse.Namespace) -> dict[str, Any]:
    """Return the record of a run directory: `done`, `diverged`, `failed` or `unfinished`.

    Raises:
        ConfigError, RecordError: if the directory is damaged.
    """
    from resnetlab.study.reports.published import protocol_differences
    from resnetlab.study.reports.run_protocol import protocol_of
    from resnetlab.study.results import read_run

    run = read_run(options.out / job.name)
    protocol = protocol_of(run) if run.status == "done" else None
    theirs = CIFAR_DEEP if run.depth >= 110 else CIFAR
    result = {"test_error_pct": None, "val_error_pct": None, "train_error_pct": None, **run.result}
    return {
        **asdict(job),
        "status": run.status,
        "step": run.epochs[-1]["step"] if run.epochs else 0,
        **{key: result[key] for key in ("test_error_pct", "val_error_pct", "train_error_pct")},
        **{key: result.get(key) for key in ("skipped_steps", "images_per_s", "time_s", "error")},
        "last_val_error_pct": run.epochs[-1]["val_error_pct"] if run.epochs else None,
        "protocol_differences": None if protocol is None else list(protocol_differences(protocol, theirs)),
        "runs_at_once": options.parallel,
        **{key: run.start.get(key) for key in ("execution", "machine", "versions", "started")},
    }
