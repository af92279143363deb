"""The lock of an output folder."""

import os

import pytest
from filelock import FileLock

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


@pytest.mark.skipif(os.name != "posix", reason="an open file cannot be deleted elsewhere")
def test_the_lock_of_the_next_process_stays(tmp_path, monkeypatch):
    """Another process takes the lock as soon as the first one releases it."""
    out, release, others = tmp_path / "run", FileLock.release, []

    def release_and_take(lock, *arguments, **options):
        release(lock, *arguments, **options)
        if not others:
            others.append(lock_dir(out, "run"))
            others[0].__enter__()

    monkeypatch.setattr(FileLock, "release", release_and_take)
    with lock_dir(out, "run"):
        pass
    assert is_locked(out)
    with pytest.raises(ConfigError, match="is in use by another run"), lock_dir(out, "run"):
        pass
    others[0].__exit__(None, None, None)
    assert not out.exists()
