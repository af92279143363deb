"""Comparison of two run directories: bit for bit, except for times."""

from pathlib import Path
from typing import Any

from resnetlab.training.run_files.checkpoint import load_checkpoint
from resnetlab.training.run_files.record import read_record
from resnetlab.training.run_files.run_dir import CHECKPOINT, RECORD

TIMES = (
    "time_s",
    "images_per_s",
    "started",
    "data_wait_pct",
    "worker_images_per_s",
    "train_time_s",
    "data_wait_s",
    "epoch_start_s",
    "epoch_start_wait_s",
    "record_bytes",
)
"""Fields that differ between two runs of one configuration."""


def run_differences(a: Path, b: Path) -> list[str]:
    """Return what differs between two finished runs: weights, statistics, momentum, counters, records.

    Raises:
        RecordError, CheckpointError: where one is damaged.
    """
    first, second = load_checkpoint(a / CHECKPOINT), load_checkpoint(b / CHECKPOINT)
    if first is None or second is None:
        return [f"{path}: no checkpoint" for path, there in ((a, first), (b, second)) if there is None]
    found = [f"tensor {name} is only in one of them" for name in sorted(first.tensors.keys() ^ second.tensors.keys())]
    for name in sorted(first.tensors.keys() & second.tensors.keys()):
        one, other = first.tensors[name], second.tensors[name]
        same = one.dtype == other.dtype and one.shape == other.shape
        if not same or one.contiguous().numpy().tobytes() != other.contiguous().numpy().tobytes():
            found.append(f"tensor {name} differs")
    if without_times(first.state) != without_times(second.state):
        found.append("the counters of the checkpoints differ")
    ours, theirs = (without_times(read_record(path / RECORD)) for path in (a, b))
    if len(ours) != len(theirs):
        found.append(f"the records have {len(ours)} and {len(theirs)} lines")
    return found + [
        f"line {number} of the record differs"
        for number, (one, other) in enumerate(zip(ours, theirs, strict=False), start=1)
        if one != other
    ]


def without_times(value: Any) -> Any:
    """Return a record or a state without the fields that hold times."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [without_times(item) for item in value]
    return value
