"""What docs/scaling.md prints is true: its commands have such options, its numbers are the program's."""

import importlib
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from resnetlab.cli.main import main
from resnetlab.training.recipes import recipe

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
OPTIONS = {
    command: importlib.import_module(f"resnetlab.cli.{command}").Options
    for command in ("plan", "doctor", "train", "data", "study")
}
PLAN = ["plan", "--model", "resnet50", "--recipe", "imagenet-90"]
WORDS = [shlex.split(line) for line in COMMANDS]
OURS = [words[words.index("resnetlab") + 1 :] for words in WORDS if words[0] != "ray"]


@pytest.mark.parametrize("words", [words for words in OURS if words[0] in OPTIONS], ids=" ".join)
def test_options_are_there(words):
    known = {field.name.replace("_", "-") for field in fields(OPTIONS[words[0]])}
    assert {word[2:] for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("line", [line for line in COMMANDS if "torchrun" in line])
def test_torchrun_takes_its_options(line):
    words = shlex.split(line)
    parsed = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
    assert parsed.module
    assert parsed.training_script == "resnetlab"


@pytest.mark.parametrize("words", [words for words in OURS if words[0] == "plan" and "here" not in words], ids=" ".join)
def test_plans_run(words, capsys):
    assert main(words) == 0
    assert "bottleneck" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("devices", "batch", "time", "bottleneck", "storage"),
    re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| ([\d.]+ \w+) \| (\w+) \| ([\d,]+ \wB/s) \|", PAGE, re.M),
)
def test_up_to_3584_devices(devices, batch, time, bottleneck, storage, capsys):
    words = ["--devices", devices.replace(",", ""), "--batch-size", batch.replace(",", "")]
    assert main([*PLAN, *words]) == 0
    said = capsys.readouterr().out
    assert f"time        {time}:" in said
    assert f"bottleneck  {bottleneck} (" in said
    assert f"{storage} wanted" in said


def test_the_rows_are_found():
    assert len(re.findall(r"^\| [\d,]+ \| [\d,]+ \| [\d.]+ \w+ \|", PAGE, re.M)) == 6
    assert len(OURS) >= 11
    assert {words[0] for words in OURS} == set(OPTIONS)


def test_what_a_thousand_devices_want_to_read(capsys):
    assert main([*PLAN, "--devices", "1000", "--batch-size", "256000", "--json"]) == 0
    wanted = json.loads(capsys.readouterr().out)["storage_bytes_per_s"]
    assert f"{wanted / 1e9:.0f} GB/s for a thousand" in PAGE


def test_the_rate_goes_with_the_batch():
    assert recipe("imagenet-90", batch_size=2048).lr == 2.048
    assert recipe("imagenet-paper", batch_size=2048).lr == recipe("imagenet-paper").lr
