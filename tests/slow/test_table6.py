"""`benchmarks/table6.py`: runs on digits that are stopped, killed and continued end as runs without a break do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT

SCRIPT = ROOT / "benchmarks" / "table6.py"
TRIAL = (
    "--device",
    "cpu",
    "--data",
    "digits",
    "--networks",
    "resnet8",
    "plain8",
    "--precisions",
    "fp32",
    "--parallel",
    "2",
)
STEPS = 400
NAMES = {f"{network}-cifar-paper-fp32-seed0" for network in ("resnet8", "plain8")}


def command(out, *words):
    return [
        sys.executable,
        str(SCRIPT),
        *TRIAL,
        "--steps",
        str(STEPS),
        "--recipes",
        "cifar-paper",
        "--out",
        str(out),
        *words,
    ]


def part(out, *words):
    with (out.parent / f"{out.name}.log").open("a") as log:
        return subprocess.Popen(
            command(out, "--no-measurement", *words),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def records(out):
    return {path.stem: json.loads(path.read_text()) for path in (out / "records").glob("*-seed0.json")}


def wait_until(condition, seconds=300.0):  # two processes load PyTorch, beside others
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def num_epochs(out, network):
    record = out / f"{network}-cifar-paper-fp32-seed0" / "record.jsonl"
    return record.read_text().count('"epoch"') if record.exists() else 0


@pytest.mark.slow  # two networks, 400 steps each and again in parts, in ten processes that load PyTorch
@pytest.mark.timeout(600)
def test_a_trial_in_parts(tmp_path):
    """The first part is killed with its runs, the second is asked to stop, the third ends elsewhere, from its files."""
    whole, broken, parts = tmp_path / "whole", tmp_path / "broken", tmp_path / "parts"
    assert part(whole).wait(300) == 0

    first = part(broken)
    wait_until(lambda: min(num_epochs(broken, network) for network in ("resnet8", "plain8")) >= 1)
    runs = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    assert len(runs) == 2
    for pid in (first.pid, *map(int, runs)):
        os.kill(pid, signal.SIGKILL)
    first.wait()

    second = part(broken, "--pack", str(parts))
    wait_until(lambda: num_epochs(broken, "plain8") >= 20)
    second.terminate()
    assert second.wait(60) in (0, 3)
    assert {*records(broken)} == NAMES
    assert {record["status"] for record in records(broken).values()} <= {"unfinished", "done"}

    broken.rename(tmp_path / "gone")
    assert part(broken, "--unpack", str(parts)).wait(300) == 0
    assert "| resnet8 |" in (tmp_path / "broken.log").read_text()
    assert {*records(whole)} == NAMES
    for name, record in records(whole).items():
        assert (record["status"], record["step"]) == ("done", STEPS)
        for key in ("test_error_pct", "val_error_pct", "train_error_pct"):
            assert records(broken)[name][key] == record[key]


@pytest.mark.slow  # a process that loads PyTorch and takes 20 steps
def test_the_measurement_leaves_its_record(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *TRIAL, "--steps", "20", "--out", str(tmp_path), "--measure"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "records" / "speed.json").read_text())
    assert record["images_per_s"]["resnet8"]["eager"] > 0
    assert record["machine"]["device"] == "cpu"
    assert "eager" in done.stdout


def test_the_table_of_no_records(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--table", "--records", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "| resnet20 | 8.75 | — | — |" in done.stdout
    assert "| plain110 | above 60 | — | — |" in done.stdout
    assert "No run has ended: the rows are empty." in done.stdout
