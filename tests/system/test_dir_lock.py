"""The lock of an output folder."""

import pytest

from resnetlab.config import ConfigError
from resnetlab.system.dir_lock import is_locked, lock_dir


def test_lock_and_release(tmp_path):
    out = tmp_path / "run"
    assert not is_locked(out)
    with lock_dir(out, "run"):
        (out / "something").touch()
        assert is_locked(out)
        with pytest.raises(ConfigError, match="is in use by another run"), lock_dir(out, "run"):
            pass
    assert not is_locked(out)


def test_an_empty_folder_is_removed(tmp_path):
    with lock_dir(tmp_path / "run", "run"):
        pass
    assert not (tmp_path / "run").exists()
