"""Hints at the run or file that a mistyped path means."""

from pathlib import Path

import pytest

from resnetlab.cli.main import main
from resnetlab.models.model_card import ModelFileError, find_model_file
from resnetlab.models.similar_paths import suggest_path

MODEL, CONFIG = "model.safetensors", "config.json"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Finished runs, an interrupted one, a folder that is no run, and two exports."""
    monkeypatch.chdir(tmp_path)
    for run in ("photos-resnet20-finetuned-seed0", "photos-resnet20-finetuned-seed1", "digits-resnet20-seed0"):
        Path("runs", run).mkdir(parents=True)
        Path("runs", run, MODEL).touch()
        Path("runs", run, CONFIG).touch()
    Path("runs", "flowers-seed0").mkdir()
    Path("runs", "flowers-seed0", CONFIG).touch()
    Path("runs", "empty-seed0").mkdir()
    for name in ("net.onnx", "net.xml"):
        Path(name).touch()


@pytest.mark.parametrize(
    ("path", "marker", "found"),
    [
        ("runs/photos-seed0", MODEL, "runs/photos-resnet20-finetuned-seed0"),
        ("runs/photos-seed1", MODEL, "runs/photos-resnet20-finetuned-seed1"),
        ("runs/photos-seed1/model.safetensors", MODEL, "runs/photos-resnet20-finetuned-seed1/model.safetensors"),
        ("runs/digits-resnet21-seed0", MODEL, "runs/digits-resnet20-seed0"),
        ("digits-resnet20-seed0", MODEL, "runs/digits-resnet20-seed0"),
        ("runs/flower-seed0", CONFIG, "runs/flowers-seed0"),
        ("runs/flower-seed0", MODEL, None),
        ("runs/empty-seed1", CONFIG, None),
        ("elsewhere/photos-seed0", MODEL, None),
        ("ned.onnx", MODEL, "net.onnx"),
        ("ned.pt2", MODEL, None),
        ("runs/zzz", MODEL, None),
    ],
)
def test_the_most_similar_run_or_file_is_suggested(path, marker, found):
    assert suggest_path(Path(path), marker) == (f"; did you mean {found}?" if found else "")


def test_a_missing_model_file_comes_with_the_hint():
    with pytest.raises(
        ModelFileError, match=r"no such model file; did you mean runs/photos-resnet20-finetuned-seed0\?$"
    ):
        find_model_file("runs/photos-seed0")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("evaluate", "runs/photos-seed0"), "did you mean runs/photos-resnet20-finetuned-seed0?"),
        (("evaluate", "ned.onnx"), "did you mean net.onnx?"),
        (("diagnose", "runs/photos-seed1"), "did you mean runs/photos-resnet20-finetuned-seed1?"),
        (("train", "--resume", "--out", "runs/flower-seed0"), "did you mean runs/flowers-seed0?"),
    ],
)
def test_commands_print_the_hint(words, hint, capsys):
    assert main([*words]) == 2
    assert hint in capsys.readouterr().err
