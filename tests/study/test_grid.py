"""Grid of a study: its runs, reuse of finished runs, incompatible settings, and interruption."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image

from resnetlab.cli.study import failure_lines
from resnetlab.config import ConfigError, DataConfig
from resnetlab.study.grid import Grid, StudyData, run_name, run_study
from resnetlab.study.results import read_runs
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.record import read_record

from conftest import TINY, TWO_ARMS, resnetlab


@pytest.fixture
def copy(tiny_study, tmp_path):
    return shutil.copytree(tiny_study, tmp_path / "study")


def grid(depths=(20, 56), arms=("plain", "residual"), num_seeds=3):
    return Grid(
        datasets=(StudyData(DataConfig(), recipe("digits")),),
        depths=depths,
        arms=arms,
        num_seeds=num_seeds,
    )


def record_times(out):
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("runs/*/record.jsonl")}


def test_a_grid_is_every_combination_deepest_first():
    runs = grid().runs()
    assert len(runs) == len({run_name(run) for run in runs}) == 12
    assert [run.model.depth for run in runs] == [56] * 6 + [20] * 6
    assert run_name(runs[0]) == "digits-plain-56-seed0"
    assert {run.model.shortcut for run in runs} == {"none", "pad"}


def test_both_arms_have_the_same_number_of_parameters(tiny_study):
    rows = json.loads((tiny_study / "results.json").read_text())["runs"]
    assert {(row["depth"], row["params"]) for row in rows} == {(8, 75_002), (14, 172_218)}


def test_depth_50_is_a_cifar_network():
    assert grid(depths=(50,)).runs()[0].model.stage_blocks == (8, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (57,)}, "depth 57 is not of the form 6n\\+2; the nearest are 56 and 62"),
        ({"depths": (20, 20)}, "depth 20 is given twice"),
        ({"depths": ()}, "no depth given"),
        ({"arms": ("plane",)}, "arm 'plane' is unknown; known: plain, residual"),
        ({"arms": ("plain", "plain")}, "arm plain is given twice"),
        ({"num_seeds": 0}, "must be at least 1, not 0"),
    ],
)
def test_invalid_grid(changes, message):
    with pytest.raises(ConfigError, match=message):
        grid(**changes)


@pytest.mark.parametrize("arms", [("plain",), ("plain-capped", "residual"), ("preact",)])
def test_a_limit_on_the_steps_is_the_control_arms_alone(arms):
    training = recipe("digits", max_update=0.02)
    message = f"max_update=0.02 in the recipe of a study: .* the arm {arms[0].removesuffix('-capped')}-capped"
    with pytest.raises(ConfigError, match=message):
        Grid((StudyData(DataConfig(), training),), depths=(20,), arms=arms, num_seeds=1)


def test_same_command_repeats_no_run(copy, without_figures):
    before = record_times(copy)
    status, out, _ = without_figures("study", *TINY, "--out", copy)
    assert status == 0
    assert "10 finished runs are reused" in out
    assert record_times(copy) == before


@pytest.mark.slow
def test_larger_grid_adds_its_runs(copy, without_figures):
    before = record_times(copy)
    words = ("--depths", "8", "--seeds", "3", "--epochs", "1", "--out", copy, "--json")
    status, out, _ = without_figures("study", *TWO_ARMS, *words)
    assert status == 0
    after = record_times(copy)
    assert set(after) - set(before) == {"digits-plain-8-seed2", "digits-residual-8-seed2"}
    assert {name: after[name] for name in before} == before
    assert len(json.loads(out)["runs"]) == 12


@pytest.mark.slow
def test_other_recipe_is_rejected_and_fresh_starts_over(copy, without_figures):
    command = ("study", *TWO_ARMS, "--depths", "8", "--seeds", "1", "--epochs", "2", "--out", copy)
    status, _, stderr = without_figures(*command)
    assert status == 2
    assert "a study with other settings (recipe.epochs: 1 -> 2); add --fresh to start over" in stderr
    assert len(record_times(copy)) == 10
    (copy / "notes.txt").write_text("mine")
    assert without_figures(*command, "--fresh")[0] == 0
    assert set(record_times(copy)) == {"digits-plain-8-seed0", "digits-residual-8-seed0"}
    assert (copy / "notes.txt").exists()


@pytest.mark.slow
def test_interrupted_run_is_repeated(copy, without_figures):
    record = copy / "runs" / "digits-plain-8-seed1" / "record.jsonl"
    whole = record.read_bytes()
    record.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 20])  # within the line of the result
    assert "unfinished" in without_figures("report", copy, "--json")[1]
    assert without_figures("study", *TINY, "--out", copy)[0] == 0
    again = read_record(record)
    assert [line["kind"] for line in again] == ["run", *["signal"] * 6, "epoch", "result"]
    old = json.loads(whole.splitlines()[-1])
    assert again[-1]["test_error_pct"] == old["test_error_pct"]  # equal configurations give equal results


def test_damaged_record_is_reported_with_its_line(copy, without_figures):
    record = copy / "runs" / "digits-plain-8-seed1" / "record.jsonl"
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(lines[0] + b'{"kind": "epo\n' + lines[2])
    for command in (("study", *TINY, "--out", copy), ("report", copy)):
        status, _, stderr = without_figures(*command)
        assert status == 2
        assert "digits-plain-8-seed1/record.jsonl, line 2: not JSON" in stderr
        assert len(stderr.splitlines()) == 1


def test_record_that_lacks_a_field_is_reported(copy, without_figures):
    record = copy / "runs" / "digits-plain-8-seed1" / "record.jsonl"
    record.write_text('{"kind": "run"}\n{"kind": "epoch", "step": 3}\n')
    status, _, stderr = without_figures("report", copy)
    assert (status, len(stderr.splitlines())) == (2, 1)
    assert "digits-plain-8-seed1/record.jsonl: a line lacks 'curve'" in stderr


SIX_RUNS = (*TWO_ARMS, "--depths", "8", "--seeds", "3", "--epochs", "4")
"""So long that a study goes on for some seconds when its first run has ended."""


@contextmanager
def running_study(out):
    """Start a study of six runs; when the first run has ended, yield the process and the name of that run."""
    command = [sys.executable, "-m", "resnetlab", "study", *SIX_RUNS, "--out", str(out)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert "6 runs to make" in process.stdout.readline()
        match = re.match(r"\[1/6\] (\w+)-8 seed (\d) ", process.stdout.readline())
        assert match is not None
        yield process, f"digits-{match[1]}-8-seed{match[2]}"


def wait_for_workers(session):
    """Wait until no process of the study's session is left."""
    deadline = time.monotonic() + 60
    while processes_of(session):
        assert time.monotonic() < deadline, "workers outlive their study"
        time.sleep(0.1)


def processes_of(session):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            state, _, _, number, *_ = stat.read_text().rpartition(")")[2].split()
            found += [stat.parent.name] if int(number) == session and state != "Z" else []
    return found


@pytest.mark.slow
def test_ctrl_c_keeps_finished_runs(tmp_path, without_figures):
    with running_study(tmp_path) as (process, first):
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "finished runs are kept" in output
    assert "Traceback" not in output
    before = record_times(tmp_path)[first]
    status, output, _ = without_figures("study", *SIX_RUNS, "--out", tmp_path, "--json")
    assert status == 0
    assert record_times(tmp_path)[first] == before
    assert [row["status"] for row in json.loads(output)["runs"]] == ["done"] * 6


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_prints_no_traceback(tmp_path):
    """A terminal interrupts the whole process group, here while PyTorch is still loading."""
    command = [sys.executable, "-m", "resnetlab", "study", *TWO_ARMS, "--depths", "20", "--out", str(tmp_path)]
    with subprocess.Popen(
        command, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        assert "6 runs to make" in process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert "the same command continues" in output


@pytest.mark.slow
def test_killed_study_ends_its_workers_and_continues(tmp_path, without_figures):
    resnetlab("--version")  # starts the process that commands are forked from, so that the next takes no seconds
    with running_study(tmp_path) as (process, first):
        second = resnetlab("study", *TINY, "--out", tmp_path)  # the folder is locked meanwhile
        assert second.returncode == 2
        assert "is in use by another study" in second.stderr
        assert len(processes_of(process.pid)) > 1
        process.kill()
    wait_for_workers(process.pid)
    before = record_times(tmp_path)[first]
    status, output, _ = without_figures("study", *SIX_RUNS, "--out", tmp_path, "--json")
    assert status == 0
    assert record_times(tmp_path)[first] == before
    assert [row["status"] for row in json.loads(output)["runs"]] == ["done"] * 6


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(("files", "message"), [([], "has no image; expected"), (["a/1.png"], "only one class, a")])
def test_data_that_cannot_be_trained_on_stop_a_study_before_its_runs(tmp_path, files, message, fresh):
    """The error is raised once, not by each run, and `fresh` deletes nothing."""
    data, report = tmp_path / "pets", tmp_path / "study" / "report.html"
    data.mkdir()
    for name in files:
        (data / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(data / name)
    report.parent.mkdir()
    report.write_text("of an earlier study")
    pets = Grid((StudyData(DataConfig(str(data)), recipe("digits")),), (8,), ("plain", "residual"), 1)
    with pytest.raises(ConfigError, match=message):
        list(run_study(pets, report.parent, num_workers=1, fresh=fresh))
    assert report.read_text() == "of an earlier study"


def test_an_error_of_several_runs_is_printed_once():
    failed = {"pets-plain-8-seed0": "the disk is full", "pets-plain-8-seed1": "killed"}
    failed["pets-residual-8-seed0"] = failed["pets-plain-8-seed0"]
    assert failure_lines(failed) == [
        "failed: 2 runs (pets-plain-8-seed0, pets-residual-8-seed0): the disk is full",
        "failed: pets-plain-8-seed1: killed",
    ]


@pytest.mark.slow
def test_study_of_own_images(tmp_path, without_figures):
    """Runs and report of a path are named by its last part; another folder with that name is rejected."""
    for parent in ("a", "b"):
        for number in range(80):
            folder = tmp_path / parent / "pets" / ("train", "test")[number % 2] / ("cat", "dog")[number // 2 % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (number, 100, 200)).save(folder / f"{number}.png")
    command = (
        "study",
        *TWO_ARMS,
        "--depths",
        "8",
        "--seeds",
        "1",
        "--steps",
        "3",
        "--recipe",
        "digits",
        "--out",
        tmp_path / "study",
    )
    status, _, stderr = without_figures(*command, "--data", tmp_path / "a" / "pets")
    assert status == 0, stderr
    runs = [run.directory.name for run in read_runs(tmp_path / "study")]
    assert runs == ["pets-plain-8-seed0", "pets-residual-8-seed0"]
    assert (tmp_path / "study" / "report.html").exists()
    status, _, stderr = without_figures(*command, "--data", tmp_path / "b" / "pets")
    assert (status, "holds a study with other settings (data.name: " in stderr) == (2, True)
