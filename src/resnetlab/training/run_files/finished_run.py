"""A run that was finished before: whether its images are still as many as it had."""

from pathlib import Path

from resnetlab.config import ConfigError, RunConfig
from resnetlab.data.list_dataset import list_dataset
from resnetlab.data.registry import detect_kind
from resnetlab.training.run_files.record import read_record
from resnetlab.training.run_files.run_dir import RECORD

MAX_COUNTED = 100_000
"""Images of a run up to which its folder is counted again: about a second on a local disk."""


def changed_counts(out: Path, config: RunConfig) -> tuple[int, int] | None:
    """Return how many images a finished run had, and how many there are now; `None` if they are as many or unknown.

    Only folders and tables of images are counted, of runs that used all of them.
    """
    data = config.data
    run = next((line for line in reversed(read_record(out / RECORD)) if line["kind"] == "run"), {})
    before = sum(run.get("data", {}).get(f"num_{split}", 0) for split in ("train", "val", "test"))
    if data.train_images is not None or data.on_bad_image == "skip" or not 0 < before <= MAX_COUNTED:
        return None
    try:
        if detect_kind(data) not in ("folder", "table"):
            return None
        now = sum(map(len, list_dataset(data).splits.values()))
    except ConfigError:  # the images are gone, or no longer in a layout that can be trained on
        return None
    return None if now == before else (before, now)
