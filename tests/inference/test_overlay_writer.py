"""Overlays are written without overwriting other files."""

import errno

import pytest
from PIL import Image

from resnetlab.config import ConfigError
from resnetlab.inference import overlay_writer as module
from resnetlab.inference.overlay_writer import OverlayWriter


def overlay(colour: str = "red") -> Image.Image:
    return Image.new("RGB", (4, 4), colour)


def test_other_files_are_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "cat.png").write_bytes(b"another file")
    overlay("blue").save(out / "dog.png")
    (out / "ant.png").symlink_to("nowhere")
    writer = OverlayWriter(out)
    names = ["a/cat.jpg", "b/cat.jpg", "a/cat.jpg", "a/cat.png", "dog.jpg", "<stdin>", "ant.jpg", "a/cat-2.jpg"]
    files = [writer.write(name, overlay()).name for name in names]
    assert files == [
        "cat-2.png",
        "cat-3.png",
        "cat-4.png",
        "cat-5.png",
        "dog-2.png",
        "stdin.png",
        "ant-2.png",
        "cat-2-2.png",
    ]
    assert (out / "cat.png").read_bytes() == b"another file"
    assert Image.open(out / "dog.png").getpixel((0, 0)) == (0, 0, 255)
    assert not (tmp_path / "nowhere").exists()


def test_a_new_overlay_replaces_the_old_one_of_the_same_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["a/cat.jpg", "b/cat.jpg", "a/cat.jpg"]
    first = [OverlayWriter(tmp_path / "out").write(name, overlay()) for name in names[:1]]
    writer = OverlayWriter(tmp_path / "out")
    rewritten = [writer.write(name, overlay("blue")) for name in names]
    assert rewritten[0] == first[0]
    assert [file.name for file in rewritten] == ["cat.png", "cat-2.png", "cat-3.png"]
    assert Image.open(rewritten[0]).getpixel((0, 0)) == (0, 0, 255)
    other = OverlayWriter(tmp_path / "out")
    assert [other.write(name, overlay()).name for name in reversed(names)] == ["cat.png", "cat-2.png", "cat-3.png"]


def test_unusual_names_and_folders(tmp_path):
    writer = OverlayWriter(tmp_path / "new" / "out")
    assert writer.write("x" * 300 + ".jpg", overlay()).exists()
    assert [writer.write(name, overlay()).name for name in ("..", "")] == ["image.png", "image-2.png"]
    assert writer.write("a\nb\x1b\udc80.jpg", overlay()).name == "a_b__.png"
    assert writer.write("a\nb\x1b\udc80.jpg", overlay()).name == "a_b__-2.png"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/out cannot be created .*; choose another folder with --out"):
        OverlayWriter(tmp_path / "file" / "out")


def test_another_image_on_standard_input_is_another_overlay(tmp_path):
    files = [
        OverlayWriter(tmp_path / "out").write("<stdin>", overlay(colour)).name for colour in ("red", "blue", "red")
    ]
    assert files == ["stdin.png", "stdin-2.png", "stdin.png"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_full_disk_does_not_change_the_folder(tmp_path, monkeypatch, exists):
    if exists:
        OverlayWriter(tmp_path).write("cat.jpg", overlay())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def raise_full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_atomic", raise_full)
    with pytest.raises(OSError, match=r"cat\.png cannot be written \(No space left on device\); choose another folder"):
        OverlayWriter(tmp_path).write("cat.jpg", overlay("blue"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_not_writable(tmp_path, monkeypatch):
    monkeypatch.setattr(module.os, "access", lambda *_: False)  # root can write anywhere
    with pytest.raises(ConfigError, match="is not writable; choose another folder with --out"):
        OverlayWriter(tmp_path)
