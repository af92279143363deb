"""Faults of the machine around a run: the clock jumps, and there is no shared memory."""

import itertools
import shutil
import subprocess
import sys
import time

import pytest

from resnetlab.config import RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.training.fit import fit
from resnetlab.training.optimizers.lr_schedule import lower_lr
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.compare_runs import run_differences
from resnetlab.training.run_files.record import read_record
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.train_step import diverged_message

CONFIG = RunConfig(model_config("resnet8"), recipe=recipe("digits", epochs=2, batch_size=400))
WITHOUT_SHARED_MEMORY = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o ro tmpfs /dev/shm && exec "$@"', "sh")
YEAR_S = 365 * 86_400
HAS_NAMESPACES = (
    shutil.which("unshare") is not None
    and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
)


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    fit(CONFIG, tmp_path / "steady")
    real, jumps = time.time, itertools.cycle([0, YEAR_S, -20 * YEAR_S, 3600, -3600])
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    fit(CONFIG, tmp_path / "jumping", options=RuntimeOptions(checkpoint_steps=1))
    assert run_differences(tmp_path / "steady", tmp_path / "jumping") == []
    for line in read_record(tmp_path / "jumping" / "record.jsonl"):
        assert 0 <= line.get("time_s", 0) < 600


@pytest.mark.slow  # a study of its own, in a namespace
@pytest.mark.skipif(not HAS_NAMESPACES, reason="no right to mount file systems")
def test_a_study_needs_no_shared_memory(tmp_path):
    words = ("study", "--depths", "8", "--arms", "plain", "--seeds", "2", "--steps", "2", "--out", str(tmp_path / "s"))
    done = subprocess.run(
        [*WITHOUT_SHARED_MEMORY, sys.executable, "-m", "resnetlab", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "s" / "report.html").exists()


@pytest.mark.parametrize(
    ("recipe_lr", "advised"), [(1e7, 0.1), (10.0, 0.1), (1.0, 0.1), (0.1, 0.01), (0.01, 0.001), (3e-4, 3e-5)]
)
def test_the_advised_rate_can_train_a_network(recipe_lr, advised):
    assert lower_lr(recipe_lr) == pytest.approx(advised)
    message = diverged_message(
        float("nan"), steps=range(1, 11), total_steps=78, lr=recipe_lr / 100, recipe_lr=recipe_lr, batch=10
    )
    assert f"(lr {advised:g})" in message  # the recipe's, not that of a step in the warm-up


def test_a_rate_that_is_low_already_is_not_blamed():
    message = diverged_message(float("nan"), steps=range(1, 2), total_steps=78, lr=1e-6, recipe_lr=1e-6, batch=1)
    assert "lower learning rate" not in message
    assert "low already: look at the images of this batch" in message
