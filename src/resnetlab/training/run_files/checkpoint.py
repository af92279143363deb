"""Crash-safe checkpoints: written to a temporary folder, synced, committed by a rename, verified by SHA-256.

    checkpoint/save-000007/state.json            counters, errors seen, where the record stood
                           tensors.safetensors   weights, BN statistics, momentum
                           manifest.json         SHA-256 and length of the other two

A save without a manifest that fits is no save. The one before goes only after the new one is committed, so a kill or a
power cut at any moment leaves at least one that loads.
"""

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from resnetlab.training.run_files.record import RecordError

LOG = logging.getLogger(__name__)
"""Logs a damaged save in place of which an older one is used; without a logging configuration it goes to stderr."""
FORMAT = 1
PREFIX = "save-"
STATE, TENSORS, MANIFEST = "state.json", "tensors.safetensors", "manifest.json"


class CheckpointError(RecordError):
    """A checkpoint that cannot be used; the message names the folder and the reason."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to continue, as `Trainer.state_dict` returns it."""

    state: dict[str, Any]
    """JSON values; floats are restored bit for bit."""
    tensors: dict[str, Tensor]
    """Weights (`model.NAME`), their moving average (`average.NAME`), optimizer state (`optimizer.KEY.NAME`) and best
    weights (`best.NAME`)."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint to `folder`, and then remove older ones.

    Raises:
        OSError: where the disk is full or cannot be written; the saves that were there stay.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    files = {STATE: json.dumps(checkpoint.state).encode(), TENSORS: save(tensors)}
    sums = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()}
    files[MANIFEST] = json.dumps({"format": FORMAT, "files": sums}, indent=1).encode()

    folder.mkdir(exist_ok=True)
    before = _saves(folder)
    target = folder / f"{PREFIX}{_number(before[-1]) + 1 if before else 1:06d}"
    aside = folder / f".{target.name}"
    shutil.rmtree(aside, ignore_errors=True)  # left by a killed save
    aside.mkdir()
    try:
        for name, data in files.items():
            _write(aside / name, data)
        _sync(aside)
        aside.rename(target)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)  # free the space on a full disk
        raise
    _sync(folder)
    for path in before:
        shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest intact checkpoint of `folder`, or `None` if there is none.

    Raises:
        CheckpointError: where there are saves and not one is whole.
    """
    problems = []
    for path in reversed(_saves(folder)):
        try:
            checkpoint = _read(path)
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
            OverflowError,
            SafetensorError,
        ) as error:  # whatever a damaged or crafted manifest can cause
            problems.append(f"{path.name}: {str(error)[:200] or type(error).__name__}")
            continue
        if problems:
            LOG.warning("%s: not whole (%s); continuing from the older %s", folder, "; ".join(problems), path.name)
        return checkpoint
    if problems:
        raise CheckpointError(f"{folder}: no save there is whole ({'; '.join(problems)}); start again with --fresh")
    return None


def _saves(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PREFIX}*"), key=_number)


def _number(path: Path) -> int:
    digits = path.name.removeprefix(PREFIX)
    return int(digits) if digits.isdecimal() else -1


def _read(path: Path) -> Checkpoint:
    manifest = json.loads((path / MANIFEST).read_bytes())
    if manifest["format"] != FORMAT:
        raise ValueError(f"format {manifest['format']}, and this resnetlab reads {FORMAT}")
    content = {}
    for name in (STATE, TENSORS):  # a manifest cannot name files outside the save
        expected = manifest["files"][name]
        data = content[name] = (path / name).read_bytes()
        if len(data) != expected["bytes"] or hashlib.sha256(data).hexdigest() != expected["sha256"]:
            raise ValueError(f"{name} is not as it was written (SHA-256 differs)")
    state = json.loads(content[STATE])
    if not isinstance(state, dict):
        raise ValueError(f"{STATE} holds no object")
    return Checkpoint(state, load(content[TENSORS]))


def _write(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(handle)


def _sync(folder: Path) -> None:
    """Sync a folder: a rename is durable only after that."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
