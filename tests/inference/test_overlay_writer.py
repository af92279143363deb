"""A folder of drawings: none takes the place of anything else, and none is taken for a picture."""

import errno

import pytest
from PIL import Image

from resnetlab.config import ConfigError
from resnetlab.inference import overlay_writer as module
from resnetlab.inference.overlay_writer import OverlayWriter


def page(colour: str = "red") -> Image.Image:
    return Image.new("RGB", (4, 4), colour)


def test_no_drawing_takes_the_place_of_anything_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "cat.png").write_bytes(b"somebody's")
    page("blue").save(out / "dog.png")
    (out / "ant.png").symlink_to("nowhere")
    album = OverlayWriter(out)
    names = ["a/cat.jpg", "b/cat.jpg", "a/cat.jpg", "a/cat.png", "dog.jpg", "<stdin>", "ant.jpg", "a/cat-2.jpg"]
    files = [album.add(name, page()).name for name in names]
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
    assert (out / "cat.png").read_bytes() == b"somebody's"
    assert Image.open(out / "dog.png").getpixel((0, 0)) == (0, 0, 255)
    assert not (tmp_path / "nowhere").exists()


def test_drawn_again_it_takes_the_place_of_its_old_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["a/cat.jpg", "b/cat.jpg", "a/cat.jpg"]
    first = [OverlayWriter(tmp_path / "out").add(name, page()) for name in names[:1]]
    album = OverlayWriter(tmp_path / "out")
    again = [album.add(name, page("blue")) for name in names]
    assert again[0] == first[0]
    assert [file.name for file in again] == ["cat.png", "cat-2.png", "cat-3.png"]
    assert Image.open(again[0]).getpixel((0, 0)) == (0, 0, 255)
    other = OverlayWriter(tmp_path / "out")
    assert [other.add(name, page()).name for name in reversed(names)] == ["cat.png", "cat-2.png", "cat-3.png"]


def test_odd_names_and_folders(tmp_path):
    album = OverlayWriter(tmp_path / "new" / "out")
    assert album.add("x" * 300 + ".jpg", page()).exists()
    assert [album.add(name, page()).name for name in ("..", "")] == ["picture.png", "picture-2.png"]
    assert album.add("a\nb\x1b\udc80.jpg", page()).name == "a_b__.png"
    assert album.add("a\nb\x1b\udc80.jpg", page()).name == "a_b__-2.png"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/out cannot be made .*; choose another folder with --out"):
        OverlayWriter(tmp_path / "file" / "out")


def test_another_picture_on_standard_input_is_another_drawing(tmp_path):
    files = [OverlayWriter(tmp_path / "out").add("<stdin>", page(colour)).name for colour in ("red", "blue", "red")]
    assert files == ["stdin.png", "stdin-2.png", "stdin.png"]


@pytest.mark.parametrize("again", [False, True])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, again):
    if again:
        OverlayWriter(tmp_path).add("cat.jpg", page())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_atomic", full)
    with pytest.raises(OSError, match=r"cat\.png cannot be written \(No space left on device\); choose another folder"):
        OverlayWriter(tmp_path).add("cat.jpg", page("blue"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module.os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(ConfigError, match="cannot be written; choose another folder with --out"):
        OverlayWriter(tmp_path)
