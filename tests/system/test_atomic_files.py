import os
import stat

import pytest

from resnetlab.system.atomic_files import final_name, write_atomic


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "one")
    write_atomic(path, b"two")
    assert path.read_text() == "two"
    assert os.listdir(tmp_path) == ["a.txt"]  # noqa: PTH208


def test_other_users_may_read_the_file(tmp_path):
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]  # noqa: PTH208


@pytest.mark.parametrize("name", ["index.json", ".packing.json", "a"])
def test_temporary_files_of_a_killed_write_are_identified(tmp_path, monkeypatch, name):
    temporary = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: temporary.extend(path.name for path in tmp_path.iterdir()))
    write_atomic(tmp_path / name, "x")
    assert [final_name(found) for found in temporary] == [name]
    assert final_name(name) is None
