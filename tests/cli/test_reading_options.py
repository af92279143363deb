"""How commands say what they read, the options that say otherwise, and their own output inside the data."""

import importlib
import json

import pytest

from helpers.images import encode, random_images, write_parquet, write_tree
from resnetlab.cli.evaluate import reproduce_command
from resnetlab.cli.main import COMMANDS, main, parse
from resnetlab.cli.option_errors import option_types
from resnetlab.config import DataConfig, read_config
from resnetlab.data.open_dataset import open_data
from resnetlab.training.run_files.record import read_record

SHORT = ("--model", "resnet8", "--image-size", "8", "--batch-size", "4", "--steps", "2")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder with three classes, which is the current folder."""
    root = write_tree(tmp_path / "photos", {"a": 12, "b": 12, "c": 12})
    monkeypatch.chdir(root)
    return root


def check(*words):
    return main(["data", "check", *map(str, words)])


def options_of(command, *words):
    return parse(importlib.import_module(f"resnetlab.cli.{command.replace('-', '_')}").Options, command, words)


@pytest.mark.parametrize("command", COMMANDS)
def test_options_on_reading_are_declared_once(command):
    """A command has them in the group that all commands share, and none of its own with such a name."""
    kind = importlib.import_module(f"resnetlab.cli.{command.replace('-', '_')}").Options
    own = {name.replace("_", "-") for name in kind.__dataclass_fields__}
    assert not own & {"split-folders", "image-column", "label-column", "on-bad-image"}
    assert ("reading" in own) == ("split-folders" in option_types(kind))


def test_a_page_names_the_options_on_reading():
    command = "resnetlab evaluate net --data photos --split-folders all=. --data-root here --on-bad-image skip"
    assert reproduce_command(options_of("evaluate", *command.split()[2:])) == command


def test_inspect_reads_images_as_other_commands_do():
    words = ("net.pth", "--data", "photos", "--split-folders", "train=Lernen", "--color-profiles", "ignore")
    changes = options_of("inspect", *words).reading.changes()
    assert DataConfig("photos", **changes) == DataConfig(
        "photos", split_folders="train=Lernen", color_profiles="ignore"
    )


def test_options_on_reading_without_images_are_refused(capsys):
    assert main(["inspect", "net.pth", "--label-column", "breed", "--on-bad-image", "skip"]) == 2
    message = "--label-column, --on-bad-image require --data; add it, or leave them out"
    assert message in capsys.readouterr().err
    assert main(["study", "--preset", "everywhere", "--image-column", "photo"]) == 2
    assert "--image-column does not apply to preset everywhere" in capsys.readouterr().err


def test_a_check_says_what_was_read(tmp_path, capsys):
    write_tree(tmp_path, {"Training/a": 3, "Training/b": 2, "Testing/a": 1, "Testing/b": 1, "@eaDir/a": 2})
    (tmp_path / "notes.txt").write_text("text")
    assert check(tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[:6] == [
        "read as: a folder of images",
        "splits: train from Training/ 5, test from Testing/ 2",
        "classes: 2 (a, b)",
        "ignored files that are not images: 1 .txt",
        "ignored 1 system file or folder: @eaDir/",
        "",
    ]
    assert check(tmp_path, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["read_as"] == "a folder of images"
    assert result["read_from"] == {"train": "Training/", "test": "Testing/"}
    assert result["classes"] == ["a", "b"]
    assert result["left_out"] == [
        {"reason": "files that are not images", "count": 1, "examples": ["notes.txt"]},
        {"reason": "system files and folders", "count": 1, "examples": ["@eaDir/"]},
    ]


def test_columns_of_parquet_files(tmp_path, capsys):
    images = [encode(image) for image in random_images(4)]
    file = write_parquet(tmp_path / "data.parquet", images, ["x", "y", "x", "y"], label="breed")
    assert check(file) == 2
    assert "name the column with --label-column breed; columns: image" in capsys.readouterr().err
    assert check(file, "--label-column", "breed") == 0
    assert "columns: image from image, label from breed\n" in capsys.readouterr().out
    assert check(file, "--label-column", "caption", "--image-column", "breed") == 2
    assert "column 'breed' does not hold images" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "pack"])
def test_splits_by_option(tmp_path, capsys, command):
    write_tree(tmp_path / "set", {f"{name}/{cls}": 2 for name in ("Lernen", "Pruefen") for cls in "ab"})
    out = () if command == "check" else ("--out", str(tmp_path / "packed"))
    words = ["data", command, str(tmp_path / "set"), *out]
    assert main(words) == 2
    assert "look like splits" in capsys.readouterr().err
    assert main([*words, "--split-folders", "train=Lernen,test=Pruefen"]) == 0
    output = capsys.readouterr().out
    if command == "check":
        assert "splits: train from Lernen/ 4, test from Pruefen/ 4\n" in output
    else:
        assert check(tmp_path / "packed") == 0
        assert "read as: shards\nsplits: train 4, test 4\n" in capsys.readouterr().out


def test_shards_below_a_file_are_refused_before_the_work(tmp_path, capsys):
    write_tree(tmp_path / "set", {"a": 2, "b": 2})
    (tmp_path / "file").write_text("")
    assert main(["data", "pack", str(tmp_path / "set"), "--out", str(tmp_path / "file" / "packed")]) == 2
    assert f"{tmp_path / 'file'} is a file, not a folder" in capsys.readouterr().err


def test_a_data_set_says_how_it_was_read(tmp_path):
    write_tree(tmp_path, {"Training/a": 3, "Training/b": 3, "Testing/a": 1, "Testing/b": 1, ".hidden": 1})
    (tmp_path / "notes.txt").write_text("text")
    dataset = open_data(DataConfig(str(tmp_path)))
    assert dataset.reading == (
        "read as: a folder of images",
        "splits: train from Training/ 6, test from Testing/ 2",
        "classes: 2 (a, b)",
        "ignored 1 hidden file or folder: .hidden/",
    )
    assert dataset.warnings[0] == "ignored files that are not images: 1 .txt"
    assert open_data(DataConfig("digits")).reading == ()


def test_training_and_studies_inside_the_data(photos, without_figures, capsys):
    """Takes seconds, because the study loads PyTorch in a process of its own; none reads what the others wrote."""
    for seed in ("0", "1"):
        assert main(["train", "--data", ".", *SHORT, "--seed", seed]) == 0
    assert "classes: 3 (a, b, c)" in capsys.readouterr().out
    study = ["study", "--data", ".", "--depths", "8", "--arms", "plain", "--seeds", "1", "--steps", "2"]
    study += ["--recipe", "digits", "--image-size", "8"]
    assert without_figures(*study)[0] == 0
    assert (photos / "studies" / "photos" / "runs" / "photos-plain-8-seed0").is_dir()
    capsys.readouterr()
    assert check(".") == 0
    assert "classes: 3 (a, b, c)\nignored 2 outputs of resnetlab: runs/, studies/\n" in capsys.readouterr().out
    runs = [photos / "runs" / f"photos-resnet8-seed{seed}" / "record.jsonl" for seed in (0, 1)]
    prints = {next(line for line in read_record(run) if line["kind"] == "run")["data"]["fingerprint"] for run in runs}
    assert len(prints) == 1


def test_splits_by_option_in_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "set", {f"{name}/{cls}": 4 for name in ("Lernen", "Pruefen") for cls in "ab"})
    train = ["train", "--data", "set", *SHORT, "--out", "run"]
    assert main(train) == 2
    assert not (tmp_path / "run").exists()
    assert "--split-folders train=Lernen,test=Pruefen" in capsys.readouterr().err
    option = ["--split-folders", "train=Lernen,test=Pruefen"]
    assert main([*train, *option]) == 0
    assert "splits: train from Lernen/ 8, test from Pruefen/ 8" in capsys.readouterr().out
    assert read_config(tmp_path / "run" / "config.json").data.split_folders == "train=Lernen,test=Pruefen"
    assert main([*train, "--split-folders", "train=Pruefen,test=Lernen", "--allow-config-change"]) == 2
    assert "other data cannot continue the run" in capsys.readouterr().err
    assert main(["evaluate", "run", "--data", "set", "--json"]) == 0
    as_trained = json.loads(capsys.readouterr().out)
    assert (as_trained["split"], as_trained["num_samples"]) == ("test", 8)
    assert main(["evaluate", "run", "--data", "set", "--json", "--split-folders", "all=Lernen"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert (other["split"], other["num_samples"]) == ("all", 8)
    assert any("trained on" in note for note in other["notes"])


def test_splits_by_option_in_a_plan(tmp_path, capsys):
    write_tree(tmp_path, {f"{name}/{cls}": 200 for name in ("Lernen", "Pruefen") for cls in "a"} | {"Lernen/b": 1})
    words = ["plan", "--data", str(tmp_path), "--model", "resnet8", "--recipe", "cifar-paper", "--devices", "1"]
    assert main(words) == 2
    option = ["--split-folders", "train=Lernen,test=Pruefen"]
    assert main([*words, *option, "--json"]) == 0
    assert main(["plan", "--data", "cifar10", *option]) == 2
    assert "--split-folders is for your own images, and cifar10 is a known data set" in capsys.readouterr().err
