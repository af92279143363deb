"""`resnetlab predict` as a person meets it."""

import errno
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from helpers.small_network import model_file
from resnetlab.cli import predict
from resnetlab.cli.main import parse
from resnetlab.config import ConfigError
from resnetlab.inference.predictor import Prediction, load
from resnetlab.models.model_file import ModelFileError


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder with a model file, pictures, and one that is none."""
    root, chance = tmp_path_factory.mktemp("room"), np.random.default_rng(0)
    model_file(root / "model.safetensors")
    for name in ("pets/a.png", "pets/b.png", "pets/old/c.png", "a photograph of an extraordinarily long name.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(chance.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        pixels.resize((70, 50), Image.Resampling.BICUBIC).save(root / name)
    (root / "bad.jpg").write_text("words")
    return root


@pytest.fixture(autouse=True)
def there(room, monkeypatch):
    """Be in that folder, in a terminal of 80 columns, and leave PyTorch's threads as they are."""
    monkeypatch.chdir(room)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)


def run(*words: object) -> int:
    return predict.run(parse(predict.Options, "predict", ["model.safetensors", *map(str, words)]))


LONG = "a photograph of an extraordinarily long name.png"


def test_a_line_a_picture_of_which_nothing_is_left_out_in_a_file(capsys):
    assert run(LONG, "pets", "--top", 4) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert said.err == ""
    names = (LONG, "pets/a.png", "pets/b.png", "pets/old/c.png")
    predictor = load("model.safetensors")
    for line, name in zip(lines, names, strict=True):
        best, *others = predictor(name, 4).top
        assert line.startswith(f"{name:<27}  {best[0]:<40} {100 * best[1]:5.1f} %  ")
        assert line.endswith(", ".join(f"{other} {100 * probability:.1f} %" for other, probability in others))
    assert len({line.index(" %  ") for line in lines[1:]}) == 1  # aligned


@pytest.mark.parametrize(("columns", "most"), [(66, 0), (90, 1), (160, 4)])
def test_a_line_a_picture_in_a_terminal_is_cut_where_it_ends(capsys, columns, most):
    top = [("x" * 40, 0.5), ("golf ball", 0.25), ("église", 0.125), ("cat", 0.0625), ("dog", 0.03125)]
    console = Console(force_terminal=True, color_system=None, width=columns, markup=False)
    for last in range(1, 6):
        said = Prediction(*top[0], tuple(top[:last]))
        predict.print_line(LONG, said, [name for name, _ in top], console)
        line = capsys.readouterr().out.removesuffix("\n")
        assert len(line) < columns
        assert (LONG in line) == (columns == 160)
        assert "x" * 11 + "…" + "x" * 10 + "  50.0 %" in line
        shown = [name for name, probability in top[1:last] if f"{name} {100 * probability:.1f} %" in line]
        assert shown == [name for name, _ in top[1 : 1 + len(shown)]]
        assert len(shown) <= most
        assert line.endswith(" …") == (len(shown) < last - 1)  # nobody takes what is there for all that was asked for
        assert last < 5 or len(shown) == most


def test_json_lines(capsys):
    assert run("pets/b.png", "bad.jpg", "nowhere.png", "pets/b.png", "--json", "--top", 2) == 1
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    best = load("model.safetensors")("pets/b.png", top=2)
    top = [{"class": name, "probability": pytest.approx(probability, abs=1e-6)} for name, probability in best.top]
    good = {"path": "pets/b.png", "label": best.label, "probability": pytest.approx(best.probability, abs=1e-6)}
    no_image = "not an image that can be read (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM)"
    assert lines == [
        good | {"top": top},
        {"path": "bad.jpg", "error": no_image},
        {"path": "nowhere.png", "error": "no such file or folder"},
        good | {"top": top},
    ]
    assert said.err == (
        f"resnetlab: bad.jpg: {no_image}\nresnetlab: nowhere.png: no such file or folder\n"
        "resnetlab: 2 of 4 pictures could not be read\n"
    )


def test_names_that_no_terminal_should_see(room, capsys):
    odd = room / "odd"
    odd.mkdir()
    names = ["a\x1b[31m\nb.png", "c\udc80.png", "猫の写真.png"]
    for name in names:
        (odd / name).write_bytes((room / "pets" / "a.png").read_bytes())
    assert run("odd") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["odd/a?[31m?b.png", "odd/c?.png", "odd/猫の写真.png"]
    assert run("odd", "--json") == 0
    paths = [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()]
    assert paths == [f"odd/{name}" for name in names]


def test_explanations(room, capsys):
    pytest.importorskip("captum")
    for _ in range(2):
        assert run("pets/a.png", "pets/a.png", "bad.jpg", "--explain", "--out", "why") == 1
        assert capsys.readouterr().out.splitlines()[-1] == "drawings: why"
        assert sorted(path.name for path in (room / "why").iterdir()) == ["a-2.png", "a.png"]
    run("pets/b.png", "--explain", "--out", "why", "--json")
    assert json.loads(capsys.readouterr().out)["drawing"] == "why/b.png"
    with Image.open(room / "why" / "b.png") as drawn:
        assert drawn.size == (448, 484)


def test_drawings_are_no_pictures(room, capsys, monkeypatch):
    pytest.importorskip("captum")
    monkeypatch.chdir(room / "pets")
    for _ in range(2):
        assert predict.run(parse(predict.Options, "predict", ["../model.safetensors", ".", "--explain"])) == 0
        told = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
        assert told == ["a.png", "b.png", "old/c.png", "drawings:"]
    shutil.rmtree("explained")


def test_a_drawing_that_cannot_be_written_takes_no_answer_with_it(room, capsys, monkeypatch):
    pytest.importorskip("captum")

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("resnetlab.inference.overlay_writer.write_whole", full)
    with pytest.raises(OSError, match=r"full/a\.png cannot be written"):
        run("pets/a.png", "pets/b.png", "--explain", "--out", "full", "--json")
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["path"] == "pets/a.png"
    assert "drawing" not in json.loads(line)
    assert list((room / "full").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"no pictures; name files, folders, quoted globs such as 'photos/\*\.jpg', or - for a list"),
        (["a", "--top", 0], "top must be at least 1, not 0"),
        (["a", "--batch-size", 0], "batch-size must be at least 1, not 0"),
        (["a", "--workers", -1], "workers must be at least 1, not -1"),
        (["a", "--max-megapixels", 0], "max-megapixels must be at least 1, not 0"),
        (["a", "--explain", "--out", "bad.jpg/x"], "bad.jpg/x cannot be made"),
    ],
)
def test_mistakes_in_the_call(words, message):
    with pytest.raises(ConfigError, match=message):
        run(*words)
    with pytest.raises(ModelFileError, match="no such model file"):
        predict.run(predict.Options(Path("nowhere"), ("a",)))


def test_more_megapixels_than_wanted(room, capsys):
    Image.new("L", (1200, 1000)).save(room / "large.png")
    assert run("large.png", "--max-megapixels", 1) == 1
    assert "claims 1,200 x 1,000 pixels, more than 1 megapixels" in capsys.readouterr().err
    assert run("large.png", "--max-megapixels", 2, "--workers", 1, "--batch-size", 1) == 0


def test_nothing_heavy_before_it_is_needed():
    code = "import sys, resnetlab.cli.predict; print([m for m in ('torch', 'PIL', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_help_fits_a_terminal(capsys):
    with pytest.raises(SystemExit):
        parse(predict.Options, "predict", ["--help"])
    said = capsys.readouterr().out
    assert "--max-megapixels" in said
    assert max(map(len, said.splitlines())) <= 80


def begun(room: Path, *words: str, **pipes: Any) -> subprocess.Popen[Any]:
    command = [sys.executable, "-W", "error", "-m", "resnetlab", "predict", "model.safetensors", *words]
    return subprocess.Popen(command, cwd=room, env={**os.environ, "COLUMNS": "80"}, **pipes)


def test_a_stream_is_answered_as_it_comes_and_stops_at_once(room):
    """Standard input stays open: the first answer must come nevertheless; then Ctrl-C."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with begun(room, "-", "--json", **pipes) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(b"pets/a.png\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["path"] == "pets/a.png"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == b"resnetlab: stopped\n"


@pytest.mark.slow
def test_a_reader_that_leaves_is_nobodys_mistake(room):
    with begun(room, *["pets"] * 3000, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


@pytest.mark.slow
def test_progress_where_nobody_sees_the_answers_pass(room):
    """Standard error is a terminal, standard output a file."""
    ours, theirs = pty.openpty()
    with (room / "out.jsonl").open("wb") as out:
        process = begun(room, *["pets"] * 500, "bad.jpg", "--json", stdout=out.fileno(), stderr=theirs)
        os.close(theirs)
        said = b""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            said += part
    os.close(ours)
    assert process.wait(20) == 1
    assert b" pictures, " in said
    assert said.endswith(b"could not be read\r\n")
    shown = [line.rpartition(b"\x1b[K")[2] for line in said.split(b"\r\n")]
    assert shown[-3].startswith(b"resnetlab: bad.jpg: not an image")
    assert shown[-2] == b"resnetlab: 1 of 1,501 pictures could not be read"
    assert len((room / "out.jsonl").read_text().splitlines()) == 1501
