"""`resnetlab predict`: its output in a terminal, in a file and as JSON, overlays, errors, streams."""

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
def folder(tmp_path_factory):
    """A folder with a model file, images, and an invalid image."""
    root, rng = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
    model_file(root / "model.safetensors")
    for name in ("pets/a.png", "pets/b.png", "pets/old/c.png", "a photograph of an extraordinarily long name.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        pixels.resize((70, 50), Image.Resampling.BICUBIC).save(root / name)
    (root / "bad.jpg").write_text("words")
    return root


@pytest.fixture(autouse=True)
def working_folder(folder, monkeypatch):
    """Change to that folder, set a terminal of 80 columns, and do not change PyTorch's threads."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)


def run(*arguments: object) -> int:
    return predict.run(parse(predict.Options, "predict", ["model.safetensors", *map(str, arguments)]))


LONG = "a photograph of an extraordinarily long name.png"


def test_lines_in_a_file_are_complete(capsys):
    assert run(LONG, "pets", "--top", 4) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert output.err == ""
    names = (LONG, "pets/a.png", "pets/b.png", "pets/old/c.png")
    predictor = load("model.safetensors")
    for line, name in zip(lines, names, strict=True):
        best, *others = predictor(name, 4).top
        assert line.startswith(f"{name:<27}  {best[0]:<40} {100 * best[1]:5.1f} %  ")
        assert line.endswith(", ".join(f"{other} {100 * probability:.1f} %" for other, probability in others))
    assert len({line.index(" %  ") for line in lines[1:]}) == 1  # aligned


@pytest.mark.parametrize(("columns", "most"), [(66, 0), (90, 1), (160, 4)])
def test_lines_in_a_terminal_fit_its_width(capsys, columns, most):
    top = [("x" * 40, 0.5), ("golf ball", 0.25), ("église", 0.125), ("cat", 0.0625), ("dog", 0.03125)]
    console = Console(force_terminal=True, color_system=None, width=columns, markup=False)
    for last in range(1, 6):
        prediction = Prediction(*top[0], tuple(top[:last]))
        predict.print_line(LONG, prediction, [name for name, _ in top], console=console)
        line = capsys.readouterr().out.removesuffix("\n")
        assert len(line) < columns
        assert (LONG in line) == (columns == 160)
        assert "x" * 11 + "…" + "x" * 10 + "  50.0 %" in line
        shown = [name for name, probability in top[1:last] if f"{name} {100 * probability:.1f} %" in line]
        assert shown == [name for name, _ in top[1 : 1 + len(shown)]]
        assert len(shown) <= most
        assert line.endswith(" …") == (len(shown) < last - 1)  # the ellipsis marks omitted classes
        assert last < 5 or len(shown) == most


def test_json_lines(capsys):
    assert run("pets/b.png", "bad.jpg", "nowhere.png", "pets/b.png", "--json", "--top", 2) == 1
    output = capsys.readouterr()
    lines = [json.loads(line) for line in output.out.splitlines()]
    best = load("model.safetensors")("pets/b.png", top=2)
    top = [{"class": name, "probability": pytest.approx(probability, abs=1e-6)} for name, probability in best.top]
    good = {"path": "pets/b.png", "label": best.label, "probability": pytest.approx(best.probability, abs=1e-6)}
    no_image = "a text file, not an image"
    assert lines == [
        good | {"top": top},
        {"path": "bad.jpg", "error": no_image},
        {"path": "nowhere.png", "error": "no such file or folder"},
        good | {"top": top},
    ]
    assert output.err == (
        f"resnetlab: bad.jpg: {no_image}\nresnetlab: nowhere.png: no such file or folder\n"
        "resnetlab: 2 of 4 images could not be read\n"
    )


def test_unprintable_names(folder, capsys):
    odd = folder / "odd"
    odd.mkdir()
    names = ["a\x1b[31m\nb.png", "c\udc80.png", "猫の写真.png"]
    for name in names:
        (odd / name).write_bytes((folder / "pets" / "a.png").read_bytes())
    assert run("odd") == 0
    lines = capsys.readouterr().out.splitlines()
    escaped = [r"odd/a\u001b[31m\nb.png", r"odd/c\udc80.png", "odd/猫の写真.png"]
    assert [line.split("  ")[0] for line in lines] == escaped
    assert run("odd", "--json") == 0
    paths = [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()]
    assert paths == [f"odd/{name}" for name in names]


def test_overlays(folder, capsys):
    for _ in range(2):
        assert run("pets/a.png", "pets/a.png", "bad.jpg", "--explain", "--out", "why") == 1
        assert capsys.readouterr().out.splitlines()[-1] == "overlays: why"
        assert sorted(path.name for path in (folder / "why").iterdir()) == ["a-2.png", "a.png"]
    run("pets/b.png", "--explain", "--out", "why", "--json")
    record = json.loads(capsys.readouterr().out)
    assert record["overlay"] == record["drawing"] == "why/b.png"
    with Image.open(folder / "why" / "b.png") as overlay:
        assert overlay.size == (448, 484)


def test_overlays_are_not_classified(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder / "pets")
    for _ in range(2):
        assert predict.run(parse(predict.Options, "predict", ["../model.safetensors", ".", "--explain"])) == 0
        first_words = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
        assert first_words == ["a.png", "b.png", "old/c.png", "overlays:"]
    shutil.rmtree("explained")


def test_a_prediction_is_printed_before_its_overlay_fails(folder, capsys, monkeypatch):
    def raise_full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("resnetlab.inference.overlay_writer.write_atomic", raise_full)
    with pytest.raises(OSError, match=r"full/a\.png cannot be written"):
        run("pets/a.png", "pets/b.png", "--explain", "--out", "full", "--json")
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["path"] == "pets/a.png"
    assert "drawing" not in json.loads(line)
    assert list((folder / "full").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"no images; name files, folders, quoted globs such as 'photos/\*\.jpg', or - for a list"),
        (["a", "--top", 0], "top must be at least 1, not 0"),
        (["a", "--batch-size", 0], "batch-size must be at least 1, not 0"),
        (["a", "--workers", -1], "workers must be at least 1, not -1"),
        (["a", "--max-megapixels", 0], "max-megapixels must be at least 1, not 0"),
        (["a", "--explain", "--out", "bad.jpg/x"], "bad.jpg/x cannot be created"),
        (["a", "--out", "preds.json"], "--out requires --explain; add it, or leave --out out"),
    ],
)
def test_usage_errors(arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(*arguments)
    with pytest.raises(ModelFileError, match="no such model file"):
        predict.run(predict.Options(Path("nowhere"), ("a",)))


def test_the_pixel_limit(folder, capsys):
    Image.new("L", (1200, 1000)).save(folder / "large.png")
    assert run("large.png", "--max-megapixels", 1) == 1
    assert "claims 1,200 x 1,000 pixels, more than 1 megapixels" in capsys.readouterr().err
    assert run("large.png", "--max-megapixels", 2, "--workers", 1, "--batch-size", 1) == 0


def test_imports_are_lazy():
    code = "import sys, resnetlab.cli.predict; print([m for m in ('torch', 'PIL', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_help_fits_80_columns(capsys):
    with pytest.raises(SystemExit):
        parse(predict.Options, "predict", ["--help"])
    text = capsys.readouterr().out
    assert "--max-megapixels" in text
    assert max(map(len, text.splitlines())) <= 80


def start(folder: Path, *arguments: str, **pipes: Any) -> subprocess.Popen[Any]:
    command = [sys.executable, "-W", "error", "-m", "resnetlab", "predict", "model.safetensors", *arguments]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "COLUMNS": "80"}, **pipes)


def test_a_stream_is_classified_as_it_arrives_and_ctrl_c_ends_it(folder):
    """The first result arrives while standard input is still open; then Ctrl-C."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(folder, "-", "--json", **pipes) as process:
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
def test_a_closed_pipe_is_not_an_error(folder):
    with start(folder, *["pets"] * 3000, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


@pytest.mark.slow
def test_progress_line_when_the_results_go_to_a_file(folder):
    """Standard error is a terminal, standard output a file."""
    reader, writer = pty.openpty()
    with (folder / "out.jsonl").open("wb") as out:
        process = start(folder, *["pets"] * 200, "bad.jpg", "--json", stdout=out.fileno(), stderr=writer)
        os.close(writer)
        output = b""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                chunk = os.read(reader, 1 << 16)
            except OSError:  # Linux: the other end is closed
                break
            if not chunk:
                break
            output += chunk
    os.close(reader)
    assert process.wait(20) == 1
    assert b" images, " in output
    assert output.endswith(b"could not be read\r\n")
    lines = [line.rpartition(b"\x1b[K")[2] for line in output.split(b"\r\n")]
    assert lines[-3].startswith(b"resnetlab: bad.jpg: a text file, not an image")
    assert lines[-2] == b"resnetlab: 1 of 601 images could not be read"
    assert len((folder / "out.jsonl").read_text().splitlines()) == 601


def test_unknown_images_list_their_candidates(capsys):
    predictor = load("model.safetensors")
    names = ("pets/a.png", "pets/b.png", "pets/old/c.png")
    confidence = {name: predictor(name).probability for name in names}
    threshold = sorted(confidence.values())[1] + 1e-6  # two of three are below it
    assert run(*names, "--json", "--top", 3, "--reject-below", threshold) == 0
    for line, name in zip(capsys.readouterr().out.splitlines(), names, strict=True):
        record, expected = json.loads(line), predictor(name, top=3)
        assert record["unknown"] == (confidence[name] < threshold)
        assert record["label"] == ("unknown" if record["unknown"] else expected.label)
        assert record["probability"] == pytest.approx(expected.probability, abs=1e-6)
        assert [item["class"] for item in record["top"]] == [candidate for candidate, _ in expected.top]
    assert run(*names, "--top", 2, "--reject-below", threshold) == 0
    for line, name in zip(capsys.readouterr().out.splitlines(), names, strict=True):
        first, second = (f"{candidate} {100 * probability:.1f} %" for candidate, probability in predictor(name, 2).top)
        unknown = confidence[name] < threshold
        assert ("  unknown" in line) == unknown
        assert line.endswith(f"  {first}, {second}" if unknown else f"  {second}")


def test_an_unknown_image_in_a_terminal(capsys):
    prediction = Prediction("unknown", 0.4, (("cat", 0.4), ("dog", 0.35)), is_unknown=True)
    console = Console(force_terminal=True, color_system=None, width=80, markup=False)
    predict.print_line("a.png", prediction, ["cat", "dog"], console=console)
    assert capsys.readouterr().out.split() == ["a.png", "unknown", "cat", "40.0", "%,", "dog", "35.0", "%"]


def test_thresholds_are_checked_before_the_model_is_loaded():
    with pytest.raises(ConfigError, match="reject-below must be above 0 and below 1, not 80"):
        run("pets", "--reject-below", 80)
    with pytest.raises(ConfigError, match="rejects no image"):
        run("pets", "--reject-below", 0.1)
