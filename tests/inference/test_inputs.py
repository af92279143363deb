"""Arguments to images: order, skipped and rejected files, no endless waiting, bounded memory."""

import os
import socket
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from resnetlab.data.images.decode import BadImageError
from resnetlab.data.images.file_types import HEAD_BYTES
from resnetlab.data.images.left_out import LeftOut
from resnetlab.inference import image_files
from resnetlab.inference import inputs as module
from resnetlab.inference.image_files import read_image
from resnetlab.inference.inputs import ImageInput, find_inputs, shorten_middle
from resnetlab.inference.overlay_writer import OverlayWriter


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The current folder, with images and other files."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.JPG", "c/2.png", "c/10.png", "c/d/1.webp", "[x].png", ".hidden.png", "c/.git/1.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(path, "PNG")
    (tmp_path / "bare").write_bytes((tmp_path / "b.png").read_bytes())
    for name in ("README", "notes.txt", "c/Thumbs.db", "empty/words.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("words")
    return tmp_path


def names(*arguments: str) -> list[str]:
    return [f"{image.name}: {image.error}" if image.error else image.name for image in find_inputs(arguments) if image]


BELOW_C = ["c/10.png", "c/2.png", "c/d/1.webp"]
EVERYTHING = ["[x].png", "a.JPG", "b.png", "bare", *BELOW_C]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["b.png", "a.JPG", "b.png"], ["b.png", "a.JPG", "b.png"]),
        (["notes.txt", ".hidden.png"], ["notes.txt", ".hidden.png"]),  # named explicitly
        (["c"], BELOW_C),
        (["."], EVERYTHING),
        (["[x].png"], ["[x].png"]),  # a file has this name, so it is not a glob
        (["*.png"], ["[x].png", "b.png"]),
        (["?.*"], ["a.JPG", "b.png"]),
        (["[ab].*"], ["a.JPG", "b.png"]),
        (["c/*.png"], ["c/10.png", "c/2.png"]),
        (["*/*.png"], ["c/10.png", "c/2.png"]),
        (["*/d/*"], ["c/d/1.webp"]),
        (["**/*.png"], ["[x].png", "b.png", "c/10.png", "c/2.png"]),
        (["**/*"], EVERYTHING),
        (["**"], EVERYTHING),
        (["c/**"], BELOW_C),
        (["**/**/1.*"], ["c/d/1.webp"]),
        (["*.txt"], ["notes.txt"]),
        (
            ["*"],
            [
                *EVERYTHING,
                "empty: no image in this folder that is read, but 1 .txt (text file)",
            ],
        ),
        (["nowhere.png", "b.png"], ["nowhere.png: no such file or folder", "b.png"]),
        (["*.bmp", "x/*", "b.png/*"], ["*.bmp: no file matches", "x/*: no file matches", "b.png/*: no file matches"]),
        (["", "\0"], [": no such file or folder", "\0: no such file or folder"]),
    ],
)
@pytest.mark.usefixtures("tree")
def test_arguments(arguments, expected):
    assert names(*arguments) == expected


def test_overlays_are_skipped_unless_named(tree):
    for name in ("explained/x.png", "10.png"):  # a separate folder, and a file among images
        assert (
            OverlayWriter(tree / "c" / Path(name).parent)
            .write(f"{Path(name).stem}.jpg", Image.new("L", (9, 9)))
            .exists()
        )
    assert names("c") == names("c/**/*.*") == names("c/**") == BELOW_C
    for argument in ("c/explained/*.png", "c/explained/*"):
        assert names(argument) == [f"{argument}: only overlays of --explain match; name their files"]
    assert names("c/explained")[0].startswith("c/explained: no image in this folder")
    assert names("c/explained/x.png") == ["c/explained/x.png"]


def left_out(*arguments: str) -> tuple[str, ...]:
    counts = LeftOut()
    list(find_inputs(arguments, counts))
    return counts.lines()


JPEG = b"\xff\xd8\xff\xe0" + bytes(200)


@pytest.mark.parametrize(
    "name",
    ["1.jfif", "1.JPE", "1.jif", "bare", "img.0001", "1.jpg.1", "1.jpeg_large", "1.dat", "1.jpg~", "IMG_2021.12.05"],
)
@pytest.mark.parametrize("argument", ["data", "data/*", "data/**"])
def test_content_decides_what_is_an_image(tmp_path, monkeypatch, name, argument):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(JPEG)
    assert names(argument) == [f"data/{name}"]
    assert left_out(argument) == ()


def test_files_that_are_left_out_are_counted(tree):
    (tree / "c" / "list.csv").write_text("BM, not a bitmap\n")
    (tree / "c" / "scan.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    OverlayWriter(tree / "c").write("overlay.jpg", Image.new("L", (9, 9)))
    for arguments in (["c"], ["c/*"]):
        assert left_out(*arguments) == (
            "ignored files that are not images: 1 .csv",
            "ignored 1 .heic (HEIC, which is not read; convert it with: magick FILE.heic FILE.jpg), such as scan.heic",
            "ignored 1 .png (overlay of predict --explain), such as overlay.png",
        )
    for path in (tree / "c").iterdir():
        if path.is_file() and path.suffix not in (".csv", ".heic"):
            path.unlink()
    (tree / "c" / "d" / "1.webp").unlink()
    assert names("c")[0].startswith("c: no image in this folder that is read, but 1 .csv (text file), 1 .heic (HEIC, ")


def test_absolute_globs(tree):
    assert names(f"{tree}/c/*.png") == [f"{tree}/c/10.png", f"{tree}/c/2.png"]


def test_link_loops_end(tree):
    (tree / "c" / "up").symlink_to(tree)
    (tree / "c" / "d" / "again").symlink_to(tree / "c")
    (tree / "self").symlink_to(tree / "self")
    for argument in (".", "**", "**/*.webp", "c/**/1.*"):
        found = [name for name in names(argument) if name.endswith("1.webp")]
        assert 1 <= len(found) <= 8
    assert "Too many levels" in read_error(tree / "self")


def test_unreadable_folders(tree, monkeypatch):
    def raise_denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module, "_visible", raise_denied)
    assert names("c")[0] == "c: Permission denied"
    assert names("c/*.png") == ["c/*.png: no file matches"]


def read_error(path: Path, **limits: int) -> str:
    with pytest.raises(BadImageError) as caught:
        read_image(path, **limits)
    return str(caught.value)


def test_special_files_are_rejected_with_their_kind(tree):
    os.mkfifo(tree / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.png")
        assert read_error(tree / "socket.png") == "is a socket, not a file"
    assert read_error(tree / "pipe.png") == "is a pipe, not a file"
    assert read_error(Path("/dev/zero")) == "is a device, not a file"
    (tree / "zero.png").symlink_to("/dev/zero")
    assert read_error(tree / "zero.png") == "is a device, not a file"
    (tree / "gone.png").symlink_to("nothing")
    assert read_error(tree / "gone.png") == "no such file"
    assert read_error(tree / "c") == "is a folder, not a file"


def test_a_large_file_is_not_read(tree, monkeypatch):
    with (tree / "film.jpg").open("wb") as file:
        file.write(b"\xff\xd8\xff\xe0")
        file.truncate(10 * 2**30)  # sparse: it needs no disk space
    monkeypatch.setattr(os, "read", lambda *_: pytest.fail("was read"))
    assert read_error(tree / "film.jpg") == ("is too large for an image: 10,737,418,240 bytes are more than 256 MiB")


def test_only_the_header_of_other_files_is_read(tree, monkeypatch):
    (tree / "film.jpg").write_bytes(b"\0\0\0 ftypisom" + bytes(5000))
    monkeypatch.setattr(os, "read", lambda *_: pytest.fail("was read"))
    assert len(read_image(tree / "film.jpg")) == HEAD_BYTES == 1024


def test_a_growing_file_is_read_up_to_the_limit(tree, monkeypatch):
    (tree / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
    assert len(read_image(tree / "b.png", max_bytes=508)) == 508
    real = os.fstat
    monkeypatch.setattr(os, "fstat", lambda handle: os.stat_result((*real(handle)[:6], 0, *real(handle)[7:10])))
    assert "is too large for an image" in read_error(tree / "b.png", max_bytes=507)


def test_image_input_read(tree):
    assert ImageInput("b", tree / "b.png").read() == (tree / "b.png").read_bytes()
    assert ImageInput("b", b"data").read() == b"data"
    with pytest.raises(BadImageError, match=r"^why$"):
        ImageInput("b", None, "why").read()


@pytest.fixture
def from_stdin(tree, monkeypatch):
    """Return a function that gives the images of arguments, with some bytes on standard input."""

    def names_from_stdin(data: bytes, *arguments: str) -> list[str]:
        (tree / ".stdin").write_bytes(data)
        with (tree / ".stdin").open() as stream:
            monkeypatch.setattr(sys, "stdin", stream)
            return names(*(arguments or "-"))

    return names_from_stdin


def test_an_image_on_standard_input(tree, from_stdin, monkeypatch):
    image = (tree / "b.png").read_bytes()
    assert from_stdin(image) == ["<stdin>"]
    assert from_stdin(image, "a.JPG", "/dev/stdin") == ["a.JPG", "<stdin>"]
    assert from_stdin(image, "-", "-") == ["<stdin>", "<stdin>: is empty"]
    (tree / "large.png").write_bytes(image + bytes(300_000))
    with (tree / "large.png").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        (found,) = find_inputs("-")
    assert found is not None
    assert found.read() == image + bytes(300_000)
    monkeypatch.setattr(image_files, "MAX_BYTES", 200_000)
    assert from_stdin(image + bytes(300_000))[0].startswith("<stdin>: is too large for an image")
    monkeypatch.setattr(sys, "stdin", None)
    assert names("-") == ["<stdin>: standard input is closed"]


def test_paths_on_standard_input(from_stdin):
    for text in (b"c\n\nb.png\n", b"c\r\nb.png", b"c\0b.png\0", b"c\0b.png"):
        assert from_stdin(text) == [*BELOW_C, "b.png"]
    assert from_stdin(b"b.png") == ["b.png"]
    assert from_stdin(b"*.png\n-\n") == ["*.png: no such file or folder", "-: no such file or folder"]
    assert from_stdin(b"") == ["<stdin>: is empty"]
    assert from_stdin(b"BMW/1.jpg\nb.png\n")[1:] == ["b.png"]
    assert from_stdin(b"P1010001.JPG\nb.png\n")[1:] == ["b.png"]
    for name in ("P1", "P5 x", "P6 2 cats.jpg", "Pf"):
        assert from_stdin(f"{name}\nb.png\n".encode())[1:] == ["b.png"]
    assert from_stdin(b"P1\n1 1\n0") == from_stdin(b"P6 # by hand\n1 1 255\nabc") == ["<stdin>"]
    assert from_stdin(b"b.png\n" * 30_000) == ["b.png"] * 30_000
    assert "neither an image nor a list of paths" in from_stdin(b"x" * 200_000)[0]


def test_paths_on_a_stream_are_used_as_they_arrive(tree, monkeypatch):
    """The writer waits until its first path is used before it writes another."""
    reader, writer = os.pipe()
    used = threading.Event()

    def write() -> None:
        with open(writer, "wb", buffering=0) as stream:  # noqa: PTH123
            stream.write(b"b.png\n")
            used.wait(20)
            stream.write(b"c")

    thread = threading.Thread(target=write)
    thread.start()
    with open(reader) as stream:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", stream)
        found = []
        for image in find_inputs("-"):
            found.append(image and image.name)
            if image is None:
                used.set()
    thread.join()
    assert [name for name in found if name] == ["b.png", *BELOW_C]
    assert found[1] is None


def test_shorten_middle():
    assert shorten_middle("photograph.jpeg", 20, len) == "photograph.jpeg"
    assert shorten_middle("photograph.jpeg", 9, len) == "phot…jpeg"
    assert shorten_middle("photograph.jpeg", 8, len) == "phot…peg"
    assert shorten_middle("photograph.jpeg", 1, len) == "…"
