"""The lines that `train` prints after a run: errors, the chance level, the epoch that was kept, the next commands."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from resnetlab.cli.terminal import escape_name
from resnetlab.config import DataConfig, RunConfig
from resnetlab.evaluation.chance import constant_answer

MIN_DATA_WAIT_PCT = 10.0
"""Share of the training time spent waiting for images from which the result mentions it."""
MIN_TRAIN_S = 60.0
"""Training time in seconds from which that share means something: the first batches are always waited for."""


def print_result(result: Mapping[str, Any], out: Path, console: Console, *, batch_size: int) -> None:
    """Print the errors of a finished run, the chance level, the epoch that was kept, and the path of its model file.

    The wait for images is mentioned if it is long, and the training was not too short to tell; `batch_size` gives its
    time.
    """
    from resnetlab.study.display import time_text

    errors = [
        f"{name} {result[f'{name}_error_pct']:.2f} %"
        for name in ("train", "val", "test")
        if result[f"{name}_error_pct"] is not None
    ]
    summary = f"errors: {', '.join(errors)}"
    speed = f"{time_text(result['time_s'])}, {result['images_per_s']:,.0f} images/s"
    width = min(80, console.width)
    lines = [f"{summary}; {speed}"] if len(summary) + 2 + len(speed) <= width else [summary, speed]
    for line in (*lines, *_precision_line(result), *_chance_lines(result), *_kept_lines(result)):
        console.print(escape_name(line), highlight=False, width=width)
    train_s = result.get("steps", 0) * batch_size / result["images_per_s"]
    if result.get("data_wait_pct", 0) >= MIN_DATA_WAIT_PCT and train_s >= MIN_TRAIN_S:
        wait = f"{result['data_wait_pct']:.0f} % of the time was spent waiting for images"
        console.print(f"{wait}: resnetlab doctor finds the cause", soft_wrap=True, highlight=False)
    console.print(f"model file: {out / 'model.safetensors'}", soft_wrap=True, highlight=False)


def print_nothing_trained(out: Path, config: RunConfig, console: Console) -> None:
    """Print that a run was finished before, and whether its images are no longer as many."""
    from resnetlab.training.run_files.finished_run import changed_counts

    instead = "start over with --fresh, or name another folder with --out"
    lines = [f"The run in {out} is finished, nothing was trained; {instead}"]
    if counts := changed_counts(out, config):
        lines.append(f"warning: {config.data.name} had {counts[0]:,} images then, and has {counts[1]:,} now")
    for line in lines:
        console.print(escape_name(line), highlight=False, soft_wrap=True, style="yellow")


def _precision_line(result: Mapping[str, Any]) -> list[str]:
    """Return a line with the mean average precision of each split, if images have several labels."""
    values = result.get("mean_average_precision_pct", {})
    shown = [f"{name} {value:.2f} %" for name, value in values.items() if value is not None]
    return [f"mean average precision: {', '.join(shown)}"] if shown else []


def _chance_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the chance level of the test split, or of the validation split without one; records of old runs lack it."""
    chance = result.get("chance") or {}
    split = "test" if chance.get("test") else "val"
    if (level := chance.get(split)) is None:
        return
    yield f"chance level, {split}: {level['error_pct']:.2f} %, by {constant_answer(level['class'])}"
    if not level["better_than_chance"]:
        yield f"The {split} error is no better than chance: its 95 % interval reaches that level."
    macro = result["macro_error_pct"][split]
    if result.get("unequal_classes") and macro is not None:
        yield f"macro-averaged error, {split}: {macro:.2f} %; each class counts once, whatever its size"


def _kept_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield which epoch the saved weights are of, and whether the run stopped early."""
    epochs, best = result.get("epochs"), result.get("best_epoch")
    if not epochs or not best:
        return
    precision = result.get("best_val_mean_average_precision_pct")
    if precision is None:
        better, best_value = "lower validation error", f"lowest validation error ({result['best_val_error_pct']:.2f} %)"
    else:
        better, best_value = "higher validation mAP", f"highest validation mAP ({precision:.2f} %)"
    if result.get("stopped_early"):
        yield f"stopped early after epoch {epochs}: no {better} since epoch {best}"
    if result["kept"] == "best":
        yield f"kept: epoch {best} of {epochs}, which has the {best_value}"
    elif best == epochs:
        yield f"kept: the last epoch, {epochs}, which has the {best_value}"
    else:
        yield f"kept: the last epoch, {epochs}; epoch {best} has the {best_value}"


def print_next_commands(out: Path, data: DataConfig, console: Console) -> None:
    """Print the commands that use the trained network, with its path."""
    console.print("next:", highlight=False)
    for command in next_commands(out, data):
        console.print(f"  {command}", soft_wrap=True, highlight=False)


def next_commands(out: Path, data: DataConfig) -> list[str]:
    """Return a command for each use of the network in a run directory, quoted for a shell.

    `predict` gets the folder of the run's own images where there is one.
    """
    run = shlex.quote(escape_name(str(out)))
    images = shlex.quote(escape_name(data.name)) if _is_folder_of_images(data) else "IMAGE.jpg"
    return [
        f"resnetlab evaluate {run}",
        f"resnetlab predict {run} {images}",
        f"resnetlab export {run}",
        f"resnetlab serve {run}",
    ]


def _is_folder_of_images(data: DataConfig) -> bool:
    from resnetlab.data.registry import detect_kind

    return detect_kind(data) == "folder"
