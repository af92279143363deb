"""`--processes`: several processes on this machine, started, signalled and ended together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnetlab.cli.local_processes import STARTED, needs_processes
from resnetlab.config import ConfigError
from resnetlab.training.run_files.compare_runs import run_differences
from resnetlab.training.run_files.record import read_record

from conftest import resnetlab

TRAIN = ("train", "--data", "digits", "--model", "resnet8", "--epochs", "6", "--processes", "2", "--device", "cpu")


def test_who_starts_processes(monkeypatch):
    for name in ("WORLD_SIZE", STARTED):
        monkeypatch.delenv(name, raising=False)
    assert not needs_processes(1)
    assert needs_processes(2)
    with pytest.raises(ConfigError, match="processes must be at least 1, not 0"):
        needs_processes(0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="omit it under torchrun"):
        needs_processes(2)
    assert not needs_processes(1)
    monkeypatch.setenv(STARTED, "2")
    assert not needs_processes(2)


def test_a_mistake_is_printed_once():
    done = resnetlab(*TRAIN, "--lr", "-1")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "resnetlab: lr must be above 0, not -1.0\n")


def start(out):
    """Start a training, and return its process when it has saved a new checkpoint."""
    before = set(out.glob("checkpoint/save-*"))
    process = subprocess.Popen(
        [sys.executable, "-m", "resnetlab", *TRAIN, "--checkpoint-steps", "5", "--out", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not set(out.glob("checkpoint/save-*")) - before:
        assert time.monotonic() < deadline, process.communicate(timeout=1)
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return process


def processes_of(parent):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def wait_until_ended(pids):
    deadline = time.monotonic() + 60
    while any(_is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow  # four trainings in two processes each
@pytest.mark.timeout(400)
def test_stopped_killed_and_continued_it_ends_as_without(tmp_path):
    assert resnetlab(*TRAIN, "--out", tmp_path / "unbroken").returncode == 0
    first = read_record(tmp_path / "unbroken" / "record.jsonl")[0]
    assert (first["processes"], first["images_normalised_together"]) == (2, 8)

    stopped = start(tmp_path / "run")
    stopped.send_signal(signal.SIGINT)  # once, to the process that started the others
    output, errors = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, errors
    assert "the same command continues" in output
    assert "Traceback" not in errors

    killed = start(tmp_path / "run")
    children = processes_of(killed.pid)
    assert len(children) == 2
    killed.kill()
    wait_until_ended(children)  # they save and end
    killed.communicate()

    assert resnetlab(*TRAIN, "--out", tmp_path / "run").returncode == 0
    assert run_differences(tmp_path / "unbroken", tmp_path / "run") == []


@pytest.mark.slow  # one process must be lost in a real group
@pytest.mark.timeout(200)
def test_a_lost_process_is_named_and_all_end(tmp_path):
    process = start(tmp_path / "run")
    children = processes_of(process.pid)
    os.kill(max(children), signal.SIGKILL)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "process 1 of 2 is gone or does not answer" in errors
    wait_until_ended(children)
