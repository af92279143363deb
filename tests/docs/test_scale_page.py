"""Numbers on docs/scale.md equal those that `resnetlab plan` prints."""

import json
import re
import shlex

import pytest

from helpers.page_commands import commands
from resnetlab.cli.main import main
from resnetlab.training.recipes import recipe

from conftest import ROOT

PAGE = (ROOT / "docs" / "scale.md").read_text()
PLAN = ["plan", "--model", "resnet50", "--recipe", "imagenet-90"]
PLANS = [shlex.split(line)[1:] for line in commands(PAGE, "console") if line.startswith("resnetlab plan")]
ROW = r"^\| ([\d,]+) \| ([\d,]+) \| ([\d.]+ \w+) \| (\w+) \| ([\d,]+ \wB/s) \|"


@pytest.mark.parametrize("words", [words for words in PLANS if "here" not in words], ids=" ".join)
def test_plans_run(words, capsys):
    assert main(words) == 0
    assert "bottleneck" in capsys.readouterr().out


@pytest.mark.parametrize(("devices", "batch", "time", "bottleneck", "storage"), re.findall(ROW, PAGE, re.MULTILINE))
def test_up_to_3584_devices(devices, batch, time, bottleneck, storage, capsys):
    words = ["--devices", devices.replace(",", ""), "--batch-size", batch.replace(",", "")]
    assert main([*PLAN, *words]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"^time\s+{time}\b", printed, re.MULTILINE)
    assert re.search(rf"^bottleneck\s+{bottleneck}\b", printed, re.MULTILINE)
    assert storage in printed


def test_the_rows_are_found():
    assert len(re.findall(ROW, PAGE, re.MULTILINE)) == 6
    assert len(PLANS) == 2


def test_bandwidth_of_a_thousand_devices(capsys):
    assert main([*PLAN, "--devices", "1000", "--batch-size", "256000", "--json"]) == 0
    wanted = json.loads(capsys.readouterr().out)["storage_bytes_per_s"]
    assert f"{wanted / 1e9:.0f} GB/s for a thousand" in " ".join(PAGE.split())


def test_the_learning_rate_scales_with_the_batch():
    assert recipe("imagenet-90", batch_size=2048).lr == 2.048
    assert recipe("imagenet-paper", batch_size=2048).lr == recipe("imagenet-paper").lr


def test_limits_of_memory_are_those_of_the_test():
    source = (ROOT / "tests" / "slow" / "test_bounded_memory.py").read_text()
    (images,) = re.findall(r"^IMAGES, .* = (\d+_\d+),", source, re.MULTILINE)
    (packing, training) = re.findall(r"^PACKING_MIB, TRAINING_MIB = (\d+), (\d+)$", source, re.MULTILINE)[0]
    stated = (
        f"packs {int(images):,} images within {packing} MiB of private memory and trains on them within {training} MiB"
    )
    assert stated in " ".join(PAGE.split())
