import os
import stat

import pytest

from resnetlab.system.atomic_files import target_of, write_whole


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "one")
    write_whole(path, b"two")
    assert path.read_text() == "two"
    assert os.listdir(tmp_path) == ["a.txt"]  # noqa: PTH208


def test_others_may_read_it(tmp_path):
    old = os.umask(0o022)
    try:
        write_whole(tmp_path / "a", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_whole(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]  # noqa: PTH208


@pytest.mark.parametrize("name", ["index.json", ".packing.json", "a"])
def test_what_a_killed_write_leaves_is_known_by_its_name(tmp_path, monkeypatch, name):
    left = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: left.extend(path.name for path in tmp_path.iterdir()))
    write_whole(tmp_path / name, "x")
    assert [target_of(found) for found in left] == [name]
    assert target_of(name) is None
