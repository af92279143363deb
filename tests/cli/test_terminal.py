"""Output: names cannot drive the terminal, every encoding works, and a lost reader or a full disk ends no training."""

import contextlib
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from rich.text import Text

from resnetlab.cli.console import EscapedConsole
from resnetlab.cli.main import _when_reader_leaves, main
from resnetlab.cli.tables import table
from resnetlab.cli.terminal import escape, escape_name, print_json, protected

from conftest import resnetlab

HOSTILE = "a\x1b]0;owned\x07b\x9b2Jc\x7f\r\u202egpj.\u2066d"
VISIBLE = r"a\u001b]0;owned\u0007b\u009b2Jc\u007f\r\u202egpj.\u2066d"
FULL = "/dev/full"
SHORT = ("--model", "resnet8", "--steps", "2", "--batch-size", "16")


def make_images(folder, *names, side=16):
    for name in names:
        for number in range(10):
            path = folder / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (side, side), (20 * number, 0, len(name))).save(path)


def has_control(text):
    return any(ord(letter) < 32 and letter not in "\n\t" for letter in text) or any(
        letter in text for letter in "\x7f\x9b\u202e\u2066"
    )


def test_control_characters_become_codes_of_json():
    assert escape(HOSTILE) == VISIBLE
    assert escape("two\nlines\tof 猫 é 😀 Ωμέγα שלום") == "two\nlines\tof 猫 é 😀 Ωμέγα שלום"
    assert escape_name("one\nline\t") == r"one\nline\t"
    assert json.loads(f'"{escape(HOSTILE)}"') == HOSTILE


@pytest.mark.parametrize("kind", ["string", "text", "table", "styled"])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_console_escapes_every_kind_of_text(kind, terminal):
    out = io.StringIO()
    console = EscapedConsole(file=out, markup=False, width=80, force_terminal=terminal, highlight=False)
    names = table("name", "count")
    names.add_row(HOSTILE + "\n", "1")
    console.print(
        {
            "string": HOSTILE,
            "text": Text(HOSTILE),
            "styled": Text.assemble("x ", (HOSTILE, "bold red")),
            "table": names,
        }[kind]
    )
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())  # rich's own styles
    for control in ("\x1b]", "\x07", "\x9b", "\x7f", "\r", "\u202e", "\u2066"):
        assert control not in text
    if kind in ("text", "styled"):  # rich drops some control characters itself
        assert r"a\u001b]0;ownedb\u009b2Jc\u007f\u202egpj.\u2066d" in text
    else:
        assert VISIBLE in text
    if kind == "table":
        assert len(text.splitlines()) == 3


@pytest.mark.parametrize("style", [None, "dim"])
def test_wrapped_lines_do_not_end_with_spaces(style):
    out = io.StringIO()
    console = EscapedConsole(file=out, markup=False, width=12, highlight=False)
    console.print("one two three four five six seven", style=style)
    console.print("go on? [Y/n] ", end="", soft_wrap=True)
    assert out.getvalue() == "one two\nthree four\nfive six\nseven\ngo on? [Y/n] "


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_is_valid_in_every_encoding(encoding, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    value = {"name": HOSTILE, "others": ["猫", "é", "😀", "\udc80", "\\u0041"]}
    with protected():
        print_json(value)
    assert json.loads(raw.getvalue().decode(encoding)) == value
    assert not has_control(raw.getvalue().decode(encoding))


def test_json_has_null_for_numbers_that_are_not_finite(capsys):
    print_json({"loss": math.nan, "curve": [1.0, (math.inf, {"x": -math.inf})]})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "loss": None,
        "curve": [1, [None, {"x": None}]],
    }


@pytest.fixture
def hostile_names(tmp_path):
    for split in ("train", "val"):
        make_images(tmp_path / "data" / split, "a\x1b[2Jb", "c\nd\u202e", "개")
    return tmp_path / "data"


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        pytest.param({"PYTHONIOENCODING": "ascii:surrogateescape"}, marks=pytest.mark.slow),
        pytest.param({"PYTHONIOENCODING": "cp1252"}, marks=pytest.mark.slow),
        pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, marks=pytest.mark.slow),
        pytest.param({"LC_ALL": "POSIX", "PYTHONUTF8": "0"}, marks=pytest.mark.slow),
        pytest.param({"LC_ALL": "C"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_names_are_printed_in_every_locale(hostile_names, environment):
    done = subprocess.run(
        [sys.executable, "-m", "resnetlab", "data", "check", hostile_names],
        capture_output=True,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **environment},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout
    assert rb"c\nd" in done.stdout
    assert b"\\uac1c" in done.stdout or "개".encode() in done.stdout
    assert max(map(len, done.stdout.decode("utf-8", "replace").splitlines())) <= 80


def test_errors_and_paths_are_escaped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in (
        ["data", "check", "no\x1b[2J"],
        ["report", "no\x9b31m"],
        ["stu\x1b[2Jdy"],
        ["inspect", "no\x1b]0;x\x07"],
        ["study", "--seeds", "\x1b[2J"],
    ):
        assert main(words) == 2
        captured = capsys.readouterr()
        assert not has_control(captured.out + captured.err), words
        assert re.search(r"\\(u00|x)[19]b", captured.err)


def piped(command, closes="true"):
    """Run a command whose reader leaves at once; return its status, and standard error."""
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -W error -m resnetlab {command} | {closes}; echo "${{PIPESTATUS[0]}}" >&2'],
        capture_output=True,
        text=True,
        check=False,
    )
    *lines, status = done.stderr.splitlines()
    return int(status), lines


@pytest.mark.parametrize(
    ("command", "closes"),
    [
        ("--help", "true"),
        ("train --help", "head -1"),
        pytest.param("plan --published", "true", marks=pytest.mark.slow),
        ("models resnet8", "head -1"),
        pytest.param("data check digits --json", "true", marks=pytest.mark.slow),
    ],
)
def test_a_reader_that_leaves_is_no_error(command, closes):
    assert piped(command, closes) == (0, [])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["predict", "runs/a", "photos"], "stop"),
        (["predict", "runs/a", "photos", "--explain"], "finish"),
        (["data", "check", "photos"], "stop"),
        (["data", "pack", "photos"], "finish"),
        (["lesion", "runs/a"], "finish"),
        (["train"], "warn"),
        (["models"], "stop"),
        ([], "stop"),
    ],
)
def test_commands_that_write_files_finish_without_a_reader(words, expected):
    assert _when_reader_leaves(words) == expected


def test_the_status_tells_of_bad_images_without_a_reader(tmp_path):
    make_images(tmp_path / "bad", "a", "b")
    (tmp_path / "bad" / "a" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nno image")
    status, lines = piped(f"data check {tmp_path / 'bad'}")
    assert (status in (0, 1), lines) == (True, [])


def test_a_full_disk_below_standard_output_is_an_error_of_one_line():
    with open(FULL, "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "resnetlab", "models", "resnet8"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    message = "resnetlab: standard output cannot be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (1, message)


def record_status(out):
    return json.loads((out / "record.jsonl").read_text().splitlines()[-1]).get("status")


@pytest.mark.slow  # `test_output_returns_when_the_disk_has_room_again` writes without a command
@pytest.mark.parametrize(
    ("redirections", "reason"),
    [
        ("| true", "Broken pipe"),
        ("> /dev/full", "No space left on device"),
        (">&-", None),
        ("> /dev/full 2>&1", None),
    ],
)
def test_a_training_goes_on_without_its_output(tmp_path, redirections, reason):
    words = " ".join(("train", "--data", "digits", *SHORT, "--out", str(tmp_path / "run")))
    command = f"{sys.executable} -W error -m resnetlab {words} {redirections}; echo ${{PIPESTATUS[0]}} >&3"
    done = subprocess.run(
        ["bash", "-c", f"exec 3>&1; {command}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split()[-1] == "0"
    assert record_status(tmp_path / "run") == "done"
    assert (tmp_path / "run" / "model.safetensors").exists()
    going_on = [] if reason is None else [f"resnetlab: standard output cannot be written ({reason}); going on"]
    assert done.stderr.splitlines() == going_on


@pytest.mark.slow
def test_a_study_finishes_its_report_without_a_reader(tmp_path):
    out = tmp_path / "study"
    status, lines = piped(f"study --depths 8 --arms plain --seeds 1 --steps 2 --out {out}")
    assert (status, lines) == (0, ["resnetlab: standard output cannot be written (Broken pipe); going on"])
    assert (out / "report.html").exists()


def test_output_returns_when_the_disk_has_room_again(monkeypatch):
    class Disk(io.StringIO):
        is_full = True

        def write(self, text):
            if self.is_full:
                raise OSError(28, "No space left on device")
            return super().write(text)

    disk, errors = Disk(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", disk)
    monkeypatch.setattr(sys, "stderr", errors)
    with protected("warn"):
        print("lost")
        print("lost too")
        disk.is_full = False
        print("kept")
    assert disk.getvalue().splitlines() == ["kept"]
    assert errors.getvalue().count("going on") == 1


@pytest.mark.slow  # test_train_command.py sends another signal
def test_a_closed_terminal_saves_the_run(tmp_path):
    out = tmp_path / "run"
    words = ("train", "--data", "digits", "--model", "resnet8", "--steps", "100000", "--out", str(out))
    process = subprocess.Popen(
        [sys.executable, "-m", "resnetlab", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # nohup ignores it, also for the tests
    )
    try:
        while process.poll() is None and not has_begun(out):
            time.sleep(0.05)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 129
    finally:
        process.kill()
    assert list((out / "checkpoint").iterdir())


def has_begun(out):
    with contextlib.suppress(OSError):
        return '"kind": "run"' in (out / "record.jsonl").read_text()
    return False


def test_the_backend_of_a_notebook_changes_nothing(tiny_study, tmp_path):
    run = shutil.copytree(tiny_study / "runs" / "digits-plain-8-seed0", tmp_path / "run")
    done = resnetlab("diagnose", run, MPLBACKEND="module://matplotlib_inline.backend_inline")
    assert (done.returncode, done.stderr) == (0, "")
