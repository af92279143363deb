import os
import resource
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


def test_every_error_names_the_file(tmp_path):
    """A failed write has no file name of its own, and a failed creation that of the temporary file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*/report\.html'"):
            write_atomic(tmp_path / "report.html", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing" / "report.html", tmp_path / "folder"):
        with pytest.raises(OSError, match=f"'{path}'$"):
            write_atomic(path, b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
