"""Process pool: failed or killed runs do not affect others, and their causes are reported."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.records import rewrite_without_checksums
from resnetlab.config import RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.study.executors.local_pool import RunEnded, RunProgress, RunStarted, RunTask, run_tasks
from resnetlab.study.grid import Grid, StudyData, run_study
from resnetlab.study.reports import report
from resnetlab.study.reports.report import write_report
from resnetlab.system.cores import usable_cores
from resnetlab.training.execution import select_execution
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.record import read_record

from conftest import TWO_ARMS

GOOD = RunConfig(model_config("resnet8"), recipe=recipe("digits", epochs=1))
BAD = dataclasses.replace(GOOD, model=model_config("plain20", norm="none", init_scale=30.0), seed=1)


def test_failed_run_does_not_affect_others(tmp_path):
    tasks = [RunTask(BAD, tmp_path / "bad"), RunTask(GOOD, tmp_path / "good")]
    events = list(run_tasks(tasks, 1))
    ended = {event.task.out.name: event.error for event in events if isinstance(event, RunEnded)}
    assert ended["good"] is None
    assert "the loss is" in (ended["bad"] or "")
    assert [e.task.out.name for e in events if isinstance(e, RunStarted)] == ["bad", "good"]
    progress = [e for e in events if isinstance(e, RunProgress)]
    assert progress[-1].step == progress[-1].total_steps == 78


def worker_pids():
    """Return the worker processes of this session: children of the fork server."""
    pids = []
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:  # noqa: PTH123
                    fields = file.read().rpartition(")")[2].split()
                with open(f"/proc/{entry}/cmdline") as file:  # noqa: PTH123
                    command = file.read()
            except OSError:
                continue
            pids.append((int(entry), int(fields[1]), command))
    servers = {pid for pid, parent, command in pids if "forkserver" in command and parent == os.getpid()}
    return [pid for pid, parent, _ in pids if parent in servers]


def test_killed_run_is_reported_and_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "draw_figures", lambda runs, out: [])  # takes seconds
    grid = Grid(datasets=(StudyData(GOOD.data, recipe("digits", epochs=4)),), depths=(8,), arms=("plain",), num_seeds=2)
    killed = False
    for event in run_study(grid, tmp_path, num_workers=1):
        if isinstance(event, RunProgress) and not killed:
            (pid,) = worker_pids()
            os.kill(pid, signal.SIGKILL)
            killed = True
    results = write_report(tmp_path)
    assert [row["status"] for row in results["runs"]] == ["failed", "done"]
    assert results["runs"][0]["error"] == "killed by signal 9, possibly out of memory"
    page = (tmp_path / "report.html").read_text()
    assert "1 of 2 runs did not finish" in page
    assert "killed by signal 9" in page
    list(run_study(grid, tmp_path, num_workers=1))
    assert [row["status"] for row in write_report(tmp_path)["runs"]] == ["done", "done"]


def test_closing_the_iterator_stops_the_workers(tmp_path):
    events = run_tasks([RunTask(dataclasses.replace(GOOD, recipe=recipe("digits", epochs=50)), tmp_path / "long")], 1)
    while not isinstance(next(events), RunProgress):
        pass
    events.close()
    assert worker_pids() == []
    assert read_record(tmp_path / "long" / "record.jsonl")[-1]["kind"] != "result"


@pytest.mark.slow
def test_failed_run_sets_the_exit_status(tmp_path, without_figures):
    """A diverged run is not repeated; its cause is reported again and the exit status is 1."""
    blocked = tmp_path / "runs" / "digits-plain-8-seed0"
    command = ("study", *TWO_ARMS, "--depths", "8", "--seeds", "1", "--epochs", "1", "--out", tmp_path)
    assert without_figures(*command)[0] == 0
    record = blocked / "record.jsonl"
    failed = {"kind": "result", "status": "diverged", "error": "the loss is nan at step 3"}
    rewrite_without_checksums(record, lambda lines: [lines[0], failed])
    status, out, _ = without_figures(*command)
    assert status == 1
    assert "failed: digits-plain-8-seed0: the loss is nan at step 3" in out
    assert "residual-8" in out


@pytest.mark.slow
def test_run_that_cannot_start_sets_the_exit_status(tmp_path, without_figures):
    """A file is in the place of a run's folder: that run fails, the others continue, and the report is written."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits-plain-8-seed0").write_text("in the way")
    words = ("--depths", "8", "--seeds", "1", "--epochs", "1", "--out", tmp_path)
    status, out, _ = without_figures("study", *TWO_ARMS, *words)
    assert status == 1
    assert "failed: digits-plain-8-seed0: " in out
    assert "File exists" in out
    assert [row["arm"] for row in json.loads((tmp_path / "results.json").read_text())["runs"]] == ["residual"]


def test_a_worker_measures_no_numbers_of_threads(monkeypatch, tmp_path):
    """On a machine with more cores than workers too: the rounding of a run does not depend on --jobs."""
    from resnetlab.study.executors import worker

    seen = []

    def fit(config, out, **options):
        timer: Any = SimpleNamespace(images=SimpleNamespace(is_cuda=False))
        load: Any = SimpleNamespace(is_shared=False)
        seen.append(select_execution._thread_counts(config, timer, load))

    monkeypatch.setenv("OMP_NUM_THREADS", "")  # restored afterwards
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(select_execution, "thread_counts", lambda current: (1, 8))
    for name, stub in {"fit": fit, "use_huge_pages": lambda: None, "StopSignal": lambda _: nullcontext()}.items():
        monkeypatch.setattr(worker, name, stub)
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    pipe: Any = SimpleNamespace(send=lambda message: None)
    worker.run_task(RunConfig(), tmp_path, pipe)
    assert seen == [()]


def test_usable_cores():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.slow
def test_interrupt_during_server_start_is_delivered():
    """Ctrl-C during the start is deferred and delivered, and SIGINT is unblocked afterwards."""
    code = (
        "import multiprocessing.forkserver as forkserver, os, signal\n"
        "from resnetlab.study.executors import local_pool\n"
        "start = forkserver.ensure_running\n"
        "def interrupted():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    start()\n"
        "forkserver.ensure_running = interrupted\n"
        "try:\n"
        "    local_pool.preload_torch()\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "interrupted False\n"


@pytest.mark.slow
def test_interrupt_during_worker_start_is_deferred(tmp_path):
    code = (
        "import os, pathlib, signal\n"
        "from multiprocessing.context import ForkServerProcess\n"
        "from resnetlab.config import RunConfig\n"
        "from resnetlab.study.executors.local_pool import RunTask, run_tasks\n"
        "start = ForkServerProcess.start\n"
        "def interrupted(self):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    start(self)\n"
        "    print('started')\n"
        "ForkServerProcess.start = interrupted\n"
        "try:\n"
        f"    list(run_tasks([RunTask(RunConfig(), pathlib.Path({str(tmp_path / 'run')!r}))], 1))\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "started\ninterrupted\n"
    assert "Traceback" not in done.stderr
