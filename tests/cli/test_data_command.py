"""`resnetlab data check`: output, JSON, exit status and errors."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from resnetlab.cli.main import COMMANDS, main


@pytest.fixture(autouse=True)
def listed(monkeypatch):
    monkeypatch.setitem(COMMANDS, "data", "check a data set: counts, sizes, duplicates, bad files")
    monkeypatch.setenv("COLUMNS", "80")


def write(path, seed, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG")
    path.write_bytes(file.getvalue())


@pytest.fixture
def pets(tmp_path):
    """Two classes, different sizes, a grey image, a text file, and copies within train and between train and val."""
    root = tmp_path / "pets"
    for seed in range(6):
        write(root / f"train/{'cat' if seed < 4 else 'dog [old]'}/{seed}.png", seed, size=(8, 8 + 2 * (seed == 5)))
    write(root / "train/cat/grey.png", 7, mode="L")
    write(root / "train/cat/again.png", 0)
    write(root / "val/cat/seen.png", 1)
    write(root / "val/cat/new.png", 9)
    (root / "train/cat/notes.txt").write_text("")
    return root


def check(*arguments):
    return main(["data", "check", *map(str, arguments)])


def test_a_valid_data_set(pets, capsys):
    assert check(pets) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    rows = [line.split() for line in output.splitlines()]
    assert ["cat", "6", "2"] in rows
    assert ["dog", "[old]", "2", "0"] in rows
    assert ["total", "8", "2"] in rows
    assert ["smallest", "class", "2", "0"] in rows
    assert "train: 8x8 to 10x8 pixels, median 8x8, 7 of 8x8; 8 PNG; 7 RGB, 1 L" in output
    assert "val: all 8x8 pixels; 2 PNG; 2 RGB" in output
    assert "exact copies within train: 1\n" in output
    assert "exact copies between splits (same bytes): 1\n  val/cat/seen.png = train/cat/1.png\n" in output
    assert "\nignored files that are not images: 1 .txt\n" in output
    assert "warning: val has no image of class dog [old]" in output
    assert "every image can be read" in output


def test_copies_may_fall_into_drawn_splits(pets, capsys):
    assert check(pets / "train") == 0
    assert "exact copies within all: 1; training may draw them into different splits\n" in capsys.readouterr().out


def test_all_bad_files_are_listed_and_the_status_is_1(pets, capsys):
    for number in range(5):
        (pets / f"train/cat/bad{number}.jpg").write_bytes(b"\xff\xd8 no image")
    whole = (pets / "val/cat/new.png").read_bytes()
    (pets / "val/cat/new.png").write_bytes(whole[: len(whole) // 2])
    assert check(pets, "--workers", "2") == 1
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("6 cannot be read:")
    assert [line.split(":")[0] for line in lines[start + 1 :]] == [
        *(f"  train/cat/bad{number}.jpg" for number in range(5)),
        "  val/cat/new.png",
    ]
    assert all(len(line.split(": ", 1)[1]) > 5 for line in lines[start + 1 :])


def test_json_is_one_object(pets, capsys):
    (pets / "train/cat/empty.jpg").write_bytes(b"")
    assert check(pets, "--json") == 1
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["splits"]["train"]["classes"] == {"cat": 6, "dog [old]": 2}
    assert result["splits"]["train"]["largest"] == [10, 8]
    assert result["splits"]["train"]["duplicates"] == 1
    assert result["duplicates_between"] == [{"train": "train/cat/1.png", "val": "val/cat/seen.png"}]
    assert [line.split(":")[0] for line in result["bad"]] == ["train/cat/empty.jpg"]
    assert len(result["warnings"]) == 2


def test_only_some_of_many_classes_are_printed(tmp_path, capsys):
    for label in range(40):
        write(tmp_path / f"a class with a name that is too long for a table row {label:02}/1.png", label)
    write(tmp_path / "z/1.png", 100)
    write(tmp_path / "z/2.png", 101)
    assert check(tmp_path) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    assert "… 17 more" in output
    assert "classes: 41 (a class with a name that i…too long for a table row 00, …)\n" in output
    assert len(output.splitlines()) <= 40
    assert "no splits: training holds out 10 % of each class" in output
    assert "between" not in output


def test_a_known_data_set(capsys):
    assert check("digits") == 0
    output = capsys.readouterr().out
    assert "train: all 8x8 pixels; 1,257 digits; 1,257 L" in output
    assert "total" in output


def test_images_above_the_size_limit_are_bad(tmp_path, capsys):
    for label in "ab":
        write(tmp_path / label / "1.png", 1)
    write(tmp_path / "b" / "2.png", 1, size=(1100, 1000))
    assert check(tmp_path, "--max-megapixels", "1") == 1
    assert "1 cannot be read:\n  b/2.png: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "nothere"), "data 'nothere' is neither a known data set"),
        (("check", "digits", "--workers", "0"), "workers must be at least 1, not 0"),
        (("check", "digits", "--cache-gib", "0"), "cache-gib must be a number above 0, not 0"),
        (("check", "digits", "--cache-gib", "inf"), "cache-gib must be a number above 0, not inf"),
        (("check", "digits", "--max-megapixels", "0"), "max_megapixels must be at least 1"),
        (("check",), "PATH"),
        (("chek", "digits"), "chek"),
        (("check", "."), "has no image; expected class folders"),
        (("check", "cifar10", "--data-root", "root"), "cifar10: 3 bytes"),
    ],
)
def test_invalid_calls_print_one_line_and_return_2(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    if "root" in words:
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "data_batch_1.bin").write_bytes(b"abc")
        message = "root/data_batch_1.bin: 3 bytes are not a multiple of a record's"
    assert main(["data", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
