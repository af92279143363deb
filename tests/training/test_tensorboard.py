import subprocess
import sys

import pytest

from resnetlab.config import ConfigError
from resnetlab.training import tensorboard
from resnetlab.training.tensorboard import open_logger


def read(folder):
    """What TensorBoard itself reads: step and value of every point, by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def refuse(message):
    pytest.fail(message)


def test_nothing_is_tracked_unless_asked(tmp_path):
    with open_logger(None, tmp_path, 0, refuse) as logger:
        logger.scalars(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_tensorboard_reads_what_was_written(tmp_path):
    with open_logger("tensorboard", tmp_path, 0, refuse) as logger:
        logger.scalars(1, {"train_loss": 2.5, "lr": 0.5})
        logger.scalars(2, {"train_loss": 1.25, "val_error_pct": None, "lr": float("nan")})
        assert read(tmp_path) == {"train_loss": [(1, 2.5), (2, 1.25)], "lr": [(1, 0.5)]}  # on disk before it closes
    logger.scalars(3, {"train_loss": 1.0})
    logger.close()
    assert read(tmp_path)["train_loss"] == [(1, 2.5), (2, 1.25)]


def test_only_what_is_finite_is_noted(tmp_path):
    with open_logger("tensorboard", tmp_path, 0, refuse) as logger:
        logger.scalars(1, {"loss": float("inf"), "error": None})
    assert read(tmp_path) == {}


def test_a_resumed_run_takes_back_what_it_makes_again(tmp_path):
    with open_logger("tensorboard", tmp_path, 0, refuse) as logger:
        for step in (10, 20, 30):
            logger.scalars(step, {"loss": float(step)})
    with open_logger("tensorboard", tmp_path, 20, refuse) as logger:  # its checkpoint was made after 20 steps
        logger.scalars(30, {"loss": -1.0})
    assert read(tmp_path) == {"loss": [(10, 10.0), (20, 20.0), (30, -1.0)]}


def test_a_full_disk_is_warnings_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "file_name", lambda: "/dev/full")  # Linux: every write to it says the disk is full
    warnings = []
    with open_logger("tensorboard", tmp_path, 0, warnings.append) as logger:
        for step in range(3):
            logger.scalars(step, {"loss": 1.0})
    assert len(warnings) == 1
    assert "No space left on device" in warnings[0]


def test_a_folder_that_cannot_be_made_is_warnings(tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    warnings = []
    with open_logger("tensorboard", tmp_path, 0, warnings.append) as logger:
        logger.scalars(1, {"loss": 1.0})
    assert len(warnings) == 1
    assert "File exists" in warnings[0]


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r"needs tensorboard: pip install 'resnetlab\[track\]'"):
        open_logger("tensorboard", tmp_path, 0, refuse)
    assert not list(tmp_path.iterdir())


def test_it_loads_without_a_warning_and_without_torch(tmp_path):
    code = (
        "import pathlib, sys\nfrom resnetlab.training.tensorboard import open_logger\n"
        "assert 'tensorboard' not in sys.modules\n"
        f"with open_logger('tensorboard', pathlib.Path({str(tmp_path)!r}), 0, print) as t: t.scalars(1, {{'a': 1}})\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
