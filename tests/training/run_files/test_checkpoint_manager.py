"""When a run is saved, and what a failure does to it."""

import itertools
import time

import pytest
import torch

from resnetlab.training.run_files.checkpoint import Checkpoint, load_checkpoint
from resnetlab.training.run_files.checkpoint_manager import MAX_TIME_SHARE, CheckpointManager


def saver(folder, warnings, **interval):
    count = iter(range(1, 1000))
    return CheckpointManager(
        folder, lambda: Checkpoint({"n": next(count)}, {"x": torch.ones(1)}), warnings.append, **interval
    )


def test_every_so_many_steps(tmp_path):
    saving = saver(tmp_path / "c", [], every_s=1e9, every_steps=3)
    seen = []
    for step in range(1, 8):
        saving.after_step(step)
        loaded = load_checkpoint(tmp_path / "c")
        seen.append(loaded.state["n"] if loaded else 0)
    assert seen == [0, 0, 1, 1, 1, 2, 2]


def test_seconds_are_stretched_where_a_save_takes_long(tmp_path, monkeypatch):
    """A save of 2 s may come once in 200 s: at most 1 % of the time."""
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def slow(folder, checkpoint):
        nonlocal now
        saved_at.append(now)
        now += 2

    saved_at: list[float] = []
    monkeypatch.setattr("resnetlab.training.run_files.checkpoint_manager.save_checkpoint", slow)
    saving = saver(tmp_path, [], every_s=10, every_steps=None)
    while now < 1000:
        now += 1
        saving.after_step(0)
    assert saved_at[0] == 10
    gaps = [later - earlier for earlier, later in itertools.pairwise(saved_at)]
    assert min(gaps) >= 2 / MAX_TIME_SHARE == pytest.approx(200)


def test_a_failure_is_told_and_tried_again(tmp_path):
    warnings: list[str] = []
    (tmp_path / "c").write_text("a file where the folder should be")
    saving = saver(tmp_path / "c", warnings, every_s=0, every_steps=1)
    saving.after_step(1)
    assert saving.problem is not None
    assert "the checkpoint cannot be saved (File exists)" in warnings[0]
    assert "training goes on" in warnings[0]
    (tmp_path / "c").unlink()
    saving.after_step(2)
    assert saving.problem is None
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded is not None
    assert loaded.state == {"n": 2}


def test_no_folder_no_save():
    saver(None, [], every_s=0, every_steps=1).after_step(1)
