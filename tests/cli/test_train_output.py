"""What `train` prints after a run."""

import io
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from helpers.images import write_tree
from resnetlab.cli.main import COMMANDS, parse
from resnetlab.cli.train_config import new_config
from resnetlab.cli.train_options import Options, RecipeOptions
from resnetlab.cli.train_output import next_commands, print_next_commands, print_result
from resnetlab.config import DataConfig
from resnetlab.training.recipes import RECIPES

LEVEL = {"error_pct": 60.0, "class": "cat", "better_than_chance": True}
RESULT = {
    "train_error_pct": 1.0,
    "val_error_pct": 20.0,
    "test_error_pct": 25.0,
    "macro_error_pct": {"train": 1.5, "val": 22.0, "test": 31.25},
    "chance": {"train": LEVEL, "val": LEVEL, "test": LEVEL},
    "unequal_classes": False,
    "epochs": 20,
    "kept": "best",
    "best_epoch": 12,
    "best_val_error_pct": 20.0,
    "time_s": 5.0,
    "images_per_s": 100.0,
}


def printed(**changes):
    out = io.StringIO()
    print_result({**RESULT, **changes}, Path("run"), Console(file=out, width=80), batch_size=100)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    return lines


def test_the_chance_level_is_beside_the_errors():
    lines = printed()
    assert lines[1] == "chance level, test: 60.00 %, by always predicting 'cat', the most frequent class"
    assert not any("no better than chance" in line for line in lines)
    assert not any("macro" in line for line in lines)


def test_an_error_that_is_no_better_says_so():
    lines = " ".join(printed(chance={"test": {**LEVEL, "better_than_chance": False}}))
    assert "The test error is no better than chance: its 95 % interval reaches that level." in lines


def test_without_a_test_split_the_level_is_that_of_the_validation():
    chance = {"val": {**LEVEL, "class": None}, "test": None}
    lines = printed(chance=chance, test_error_pct=None, unequal_classes=True)
    assert lines[1] == "chance level, val: 60.00 %, by always predicting any one class"
    assert lines[2] == "macro-averaged error, val: 22.00 %; each class counts once, whatever its size"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "kept: epoch 12 of 20, which has the lowest validation error (20.00 %)"),
        ({"kept": "last"}, "kept: the last epoch, 20; epoch 12 has the lowest validation error (20.00 %)"),
        (
            {"kept": "last", "best_epoch": 20},
            "kept: the last epoch, 20, which has the lowest validation error (20.00 %)",
        ),
        ({"stopped_early": True}, "stopped early after epoch 20: no lower validation error since epoch 12"),
    ],
)
def test_the_epoch_that_was_kept_is_named(changes, line):
    assert line in printed(**changes)


def test_results_of_old_records_are_printed_without_what_they_lack():
    old = {key: RESULT[key] for key in ("train_error_pct", "val_error_pct", "test_error_pct", "time_s", "images_per_s")}
    out = io.StringIO()
    print_result(old, Path("run"), Console(file=out, width=80), batch_size=100)
    assert out.getvalue().splitlines() == [
        "errors: train 1.00 %, val 20.00 %, test 25.00 %; 5 s, 100 images/s",
        "model file: run/model.safetensors",
    ]


def test_a_class_name_cannot_drive_the_terminal():
    out = io.StringIO()
    level = {**LEVEL, "class": "a\x1b[2J\nb"}
    print_result({**RESULT, "chance": {"test": level}}, Path("run"), Console(file=out, width=80), batch_size=100)
    assert "\x1b" not in out.getvalue()


def test_the_next_commands_can_be_typed(tmp_path):
    photos = tmp_path / "my photos"
    write_tree(photos, {"a": 1, "b": 1})
    commands = next_commands(tmp_path / "runs" / "my run", DataConfig(str(photos)))
    assert len(commands) == 4
    for command in commands:
        program, name, *words = shlex.split(command)
        assert program == "resnetlab"
        assert name in COMMANDS
        module = __import__(f"resnetlab.cli.{name}", fromlist=["Options"])
        parse(module.Options, name, words)
        assert words[0] == str(tmp_path / "runs" / "my run")
    assert shlex.split(commands[1])[-1] == str(photos)
    assert next_commands(Path("runs/x"), DataConfig("digits")) == [
        "resnetlab evaluate runs/x",
        "resnetlab predict runs/x IMAGE.jpg",
        "resnetlab export runs/x",
        "resnetlab serve runs/x",
    ]
    out = io.StringIO()
    print_next_commands(Path("runs/x"), DataConfig("digits"), Console(file=out, width=80))
    assert out.getvalue().splitlines()[0] == "next:"


def test_recipes_for_own_images_keep_the_best_epoch_and_those_of_the_paper_the_last():
    keep = {name: recipe.keep for name, recipe in RECIPES.items()}
    assert {keep["scratch"], keep["finetune"]} == {"best"}
    assert {keep[name] for name in ("digits", "cifar-paper", "imagenet-paper", "imagenet-90", "imagenet-fast")} == {
        "last"
    }
    fine_tuned = Options(data="digits", model="resnet8", recipe=RecipeOptions("digits", keep="best"))
    assert new_config(fine_tuned).recipe.keep == "best"
