"""The folder for downloaded files."""

from pathlib import Path

from resnetlab.system.cache_folder import cache_folder


def test_environment_variables_in_order(monkeypatch, tmp_path):
    monkeypatch.setenv("RESNETLAB_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.setenv("RESNETLAB_CACHE", "")
    assert cache_folder() == tmp_path / "b" / "resnetlab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "resnetlab"
    monkeypatch.setenv("RESNETLAB_CACHE", "~/c")
    assert cache_folder() == Path(tmp_path) / "c"
