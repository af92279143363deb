"""The run directory: a new run, a run to resume, or an error that says why it is refused."""

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnetlab.config import ConfigError, RunConfig, read_config
from resnetlab.models.model_card import OWN_WEIGHTS
from resnetlab.serialization import differences, to_json
from resnetlab.system.atomic_files import write_atomic
from resnetlab.training.run_files.checkpoint import Checkpoint, load_checkpoint
from resnetlab.training.run_files.record import read_record

CONFIG, RECORD, MODEL, CHECKPOINT = "config.json", "record.jsonl", "model.safetensors", "checkpoint"
INSTEAD = "add --fresh to start over, or choose another folder with --out"


@dataclass(frozen=True)
class ResumePoint:
    """The point where a run continues: the start, a checkpoint, or its end."""

    exists: bool = False
    """Whether the directory holds a run, which keeps its configuration and record until the trainer is ready."""
    checkpoint: Checkpoint | None = None
    result: dict[str, Any] | None = None
    """The record's `result` line if the run is done."""
    changed: tuple[str, ...] = ()
    """Differences from the configuration that the run had before."""
    before: RunConfig | None = None
    """That configuration, if there are differences."""
    earlier_result: dict[str, Any] = field(default_factory=dict)
    """The record's last `result` line under that configuration; empty if there is none."""
    replaced: tuple[Path, ...] = ()
    """Files and folders of an earlier run that a new one deletes when its training starts, the checkpoint first."""

    @property
    def record_bytes(self) -> int:
        """Length of the record at the checkpoint; later lines are written again."""
        return self.checkpoint.state["record_bytes"] if self.checkpoint else 0


def open_run_dir(out: Path, config: RunConfig, *, resume: bool, fresh: bool, allow_config_change: bool) -> ResumePoint:
    """Read a locked run directory and return where the run continues; write the configuration of a new run.

    The files of a run that continues stay as they are, and those of a run that is replaced (`fresh`).

    Raises:
        FileExistsError: if it holds a run and both `resume` and `fresh` are off.
        ConfigError: if its run has another configuration, or would diverge again; or if it is done, has another
            configuration and no checkpoint; or if a run that is replaced holds the initial weights.
        CheckpointError, RecordError: if its checkpoint or record is damaged.
    """
    changed: tuple[str, ...] = ()
    checkpoint, before, result = None, None, {}
    if fresh and (replaced := _run_files(out)):
        _check_weights_stay(out, config, replaced)
        return ResumePoint(True, replaced=replaced)
    if (out / RECORD).exists() or (out / CHECKPOINT).exists():
        if not resume:
            raise FileExistsError(f"{out}: holds a run already; choose another folder or delete it")
        before = read_config(out / CONFIG)
        changed = tuple(differences(before, config))
        if changed and (checkpoint := load_checkpoint(out / CHECKPOINT)):
            _refuse_another_run(out, before, config)
        result = read_result(out)
        if changed and checkpoint is None and result.get("status") == "done":
            raise ConfigError(
                f"{out} holds a finished run without its checkpoint, which another configuration "
                f"({'; '.join(changed)}) cannot continue; {INSTEAD}"
            )
        if changed and not allow_config_change:
            raise ConfigError(
                f"{out} holds a run with another configuration ({'; '.join(changed)}); add "
                "--allow-config-change to continue it anyway, --fresh to start over, or another folder with --out"
            )
        if not changed and result.get("status") == "done":
            return ResumePoint(True, result=result)
        if not changed and result.get("status") == "diverged":
            raise ConfigError(
                f"{out}: this run diverged, and would diverge again ({result.get('error')}); change it, "
                "for example with --lr, and add --allow-config-change to continue from its last checkpoint"
            )
        checkpoint = checkpoint or load_checkpoint(out / CHECKPOINT)
    if before is None:
        write_config(out, config)
        return ResumePoint()
    return ResumePoint(True, checkpoint, None, changed, before, result) if changed else ResumePoint(True, checkpoint)


def write_config(out: Path, config: RunConfig) -> None:
    """Write the configuration of a run directory."""
    write_atomic(out / CONFIG, json.dumps(to_json(config), indent=2) + "\n")


def remove_unstarted(out: Path, resume: ResumePoint) -> None:
    """Delete the files of a run that never started, so that a mistake in the call leaves nothing behind."""
    if resume.replaced:  # the earlier run stays; it may have had no record
        if (out / RECORD).stat().st_size == 0:
            (out / RECORD).unlink()
        return
    started = (out / CHECKPOINT).exists() or any(line["kind"] == "run" for line in read_record(out / RECORD))
    if not started:
        remove_paths(out / CONFIG, out / RECORD, out / "tensorboard")


def read_result(out: Path) -> dict[str, Any]:
    """Return the `result` line of a run directory; empty if there is none yet.

    Raises:
        RecordError: where the record is damaged.
    """
    if not (out / RECORD).exists():
        return {}
    lines = read_record(out / RECORD)
    return next((line for line in reversed(lines) if line["kind"] == "result"), {})


def remove_paths(*paths: Path) -> None:
    """Delete files and folders, those that exist."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _run_files(out: Path) -> tuple[Path, ...]:
    """Return the files and folders of a run that exist, the checkpoint first; event files one by one."""
    names = (CHECKPOINT, MODEL, OWN_WEIGHTS, "states", CONFIG, RECORD)
    events = sorted((out / "tensorboard").iterdir()) if (out / "tensorboard").is_dir() else []
    return (*(out / name for name in names if (out / name).exists()), *events)


def _check_weights_stay(out: Path, config: RunConfig, replaced: tuple[Path, ...]) -> None:
    if config.weights is None:
        return
    start = Path(config.weights).resolve()
    if start == out.resolve() or any(start.is_relative_to(path.resolve()) for path in replaced):
        raise ConfigError(
            f"--fresh would delete the initial weights {config.weights} with the run in {out}; name another folder "
            "with --out"
        )


def _refuse_another_run(out: Path, before: RunConfig, config: RunConfig) -> None:
    """Raise if what a checkpoint cannot continue differs: --allow-config-change cannot allow that after the first step.

    That is the network, the data, the start weights, the optimizer, and an average of the weights that is new.
    """
    same = dataclasses.replace(config, model=dataclasses.replace(config.model, name=before.model.name))
    others = [(other.model, other.architecture, _data_read(other)) for other in (before, same)]
    if others[0] != others[1]:
        changed = [text for text in differences(before, same) if text.startswith(("model", "architecture", "data"))]
        raise ConfigError(
            f"another network or other data cannot continue the run in {out} ({'; '.join(changed)}); {INSTEAD}"
        )
    for own, now, name in (
        (before.own_model or "a ResNet", config.own_model or "a ResNet", "the network"),
        (before.recipe.optimizer, config.recipe.optimizer, "the optimizer"),
    ):
        if own != now:
            raise ConfigError(f"{name} of the run in {out} is {own}, and {now} cannot continue it; {INSTEAD}")
    if config.recipe.ema_decay and not before.recipe.ema_decay:
        raise ConfigError(f"the run in {out} has no average of the weights, and ema_decay needs one; {INSTEAD}")
    start, other = (config.weights and str(Path(config.weights).resolve()) for config in (before, config))
    if start != other:
        first, now = (weights or "random weights" for weights in (before.weights, config.weights))
        raise ConfigError(
            f"the run in {out} started from {first}, and {now} cannot continue it; to continue it give "
            f"--resume --out {out} without --from, {INSTEAD}"
        )


def _data_read(config: RunConfig) -> tuple[str | None, ...]:
    """Return what decides which images are read, and their classes."""
    data = config.data
    return data.name, data.split_folders, data.image_column, data.label_column, data.color_profiles
