"""Figures in files: formats, equal bytes, and an older file when writing fails."""

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from resnetlab.figure_style import STYLE
from resnetlab.system import figure_files
from resnetlab.system.figure_files import write_figure

BEGINNINGS = {".png": b"\x89PNG", ".svg": b"<?xml"}


def figure():
    drawn = Figure(figsize=(1, 1))
    drawn.subplots().plot([0, 1])
    return drawn


@pytest.mark.parametrize("suffix", BEGINNINGS)
def test_the_same_figure_gives_the_same_bytes(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    contents = []
    with rc_context(STYLE):
        for _ in range(2):
            write_figure(figure(), path)
            contents.append(path.read_bytes())
    assert contents[0].startswith(BEGINNINGS[suffix])
    assert contents[0] == contents[1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", BEGINNINGS)
def test_an_interrupted_figure_leaves_the_older_file(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"older")
    drawn = figure()

    def print_half(file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(drawn, "savefig", print_half)
    with pytest.raises(KeyboardInterrupt):
        write_figure(drawn, path)
    monkeypatch.undo()
    monkeypatch.setattr(figure_files, "write_atomic", lambda path, _: (_ for _ in ()).throw(OSError(28, "full", path)))
    with pytest.raises(OSError, match="full"):
        write_figure(drawn, path)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]
